"""The HTTP server: Ollama's and OpenAI's protocols on one port, each in files of its own."""
