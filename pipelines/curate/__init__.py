"""From raw documents to a training corpus: clean, judge, redact, deduplicate, split, and account for all."""
