"""Architectures, presets behind one size dial, and export to Hugging Face format."""
