"""Hugging Face checkpoint -> GGUF, in one pass."""
