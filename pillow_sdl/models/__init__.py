"""Models: which there are, where their weights are, and how they are built."""
