"""Text to token ids and back, with the science vocabularies. The base byte-pair encoder comes in as a callable."""
