"""A quality classifier that learns from the user's own examples of good and bad documents."""
