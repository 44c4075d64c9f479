"""How much of each source the training split holds."""
