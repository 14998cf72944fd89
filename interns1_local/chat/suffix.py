"""The one question of every stream parser: how much of the text's end may still become the mark that is looked for."""

from __future__ import annotations


def ambiguous_suffix(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark`, the whole mark not counted."""
    place = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while place >= 0:
        if mark.startswith(text[place:]):
            return len(text) - place
        place = text.find(mark[0], place + 1)
    return 0
