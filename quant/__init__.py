"""Tensors and GGUF types: encode and decode rows, choose types, read and write GGUF files."""
