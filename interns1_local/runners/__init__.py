"""Worker processes, and which models are loaded in them."""
