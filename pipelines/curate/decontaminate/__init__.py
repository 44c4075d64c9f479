"""Benchmark questions in the corpus: found by n-grams, counted by task, taken out."""
