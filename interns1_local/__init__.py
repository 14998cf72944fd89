"""The faithful road for running the Intern-S1 and InternLM models on one's own machine."""

__version__ = "0.1.0"
