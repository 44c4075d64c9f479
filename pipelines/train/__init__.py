"""The training loop and what belongs to it, shared by every kind of training."""
