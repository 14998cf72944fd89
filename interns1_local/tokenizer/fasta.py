"""Where text holds a protein: a run of 27 or more capital letters, even inside a word."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SEQUENCE = re.compile(r"[A-Z]{27,}")


def find_sequences(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every sequence, left to right."""
    for found in _SEQUENCE.finditer(text):
        yield found.span()
