"""Which groups of people the corpus speaks of, beside which words, and how much toxic language it holds."""
