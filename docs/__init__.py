"""Pages of the documentation, and the programs that build them."""
