"""Search for a recipe's best values: many trials of it on Ray Tune, and the best one written out."""
