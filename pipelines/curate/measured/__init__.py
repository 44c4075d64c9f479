"""What is measured in each document, kept by document id, so that other thresholds decide without measuring again."""
