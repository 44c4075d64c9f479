"""Sources of text, read into one table of documents with a stable id, a licence and metadata for each."""
