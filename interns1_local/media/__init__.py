"""Pictures as the model sees them: decoded, tiled and sized as the Hugging Face processor does it."""
