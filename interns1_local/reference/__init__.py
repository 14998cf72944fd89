"""The Hugging Face side of comparisons, and their judge: it shares no code with what it judges.

Needs the extra `reference`.
"""
