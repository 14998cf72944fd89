"""Words move to the next line whole, however the text is cut into pieces."""

from __future__ import annotations

import pytest

from interns1_local.commands.word_wrap import WordWrap

CASES = [
    ("one two three", 8, "one two \nthree"),
    ("one two three", 0, "one two three"),
    ("averylongword b", 5, "averylongword \nb"),
    ("a\nbb cc dd", 5, "a\nbb cc \ndd"),
    ("化学分子", 4, "化学\n分子"),
    ("ab 化学 cd", 6, "ab 化\n学 cd"),
]


@pytest.mark.parametrize(("text", "width", "wrapped"), CASES)
def test_every_split(text: str, width: int, wrapped: str) -> None:
    for cut in range(len(text) + 1):
        wrap = WordWrap(width)
        assert wrap.feed(text[:cut]) + wrap.feed(text[cut:]) + wrap.flush() == wrapped
