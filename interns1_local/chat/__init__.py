"""Chat as text: messages, templates that turn them into prompts, parsers that turn model text into events."""
