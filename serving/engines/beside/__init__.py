"""What is imported by vLLM servers, whatever interpreter runs them: this folder is on their PYTHONPATH.

Each module is a top-level one there, with a name of its own, and needs the standard library alone.
"""
