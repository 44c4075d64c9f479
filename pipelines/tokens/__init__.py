"""From curated text to fixed-length blocks of tokens: train a tokenizer, encode, pack."""
