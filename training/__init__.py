"""Training of the networks that ship, and what turns a checkpoint into weights."""
