"""Words move to the next line whole, however the text is cut into pieces."""

from __future__ import annotations

import pytest

from interns1_local.commands.styled_wrap import StyledWrap

CASES = [
    ("one two three", 8, 0, "one two\nthree"),
    ("one two three", 0, 0, "one two three"),
    ("- one two three", 8, 2, "- one\n  two\n  three"),
    ("averylongword bc", 5, 0, "averylongword\nbc"),
    ("a averylongword bc", 5, 0, "a\naverylongword\nbc"),
    ("a\nbb cc dd", 5, 0, "a\nbb cc\ndd"),
    ("化学分子", 4, 0, "化学\n分子"),
    ("ab 化学 cd", 6, 0, "ab 化\n学 cd"),
    ("化学。分子", 4, 0, "化\n学。\n分子"),
]


@pytest.mark.parametrize(("text", "width", "hanging", "wrapped"), CASES)
def test_every_split(text: str, width: int, hanging: int, wrapped: str) -> None:
    for cut in range(len(text) + 1):
        written: list[str] = []
        wrap = StyledWrap(written.append, lambda: width, lambda text, style: text)
        wrap.begin(hanging)
        wrap.put(text[:cut])
        wrap.put(text[cut:])
        wrap.end()
        assert "".join(written) == wrapped + "\n"


def test_each_line_asks_for_the_width() -> None:
    written: list[str] = []
    widths = iter([20, 20, 6, 6])
    wrap = StyledWrap(written.append, lambda: next(widths), lambda text, style: f"[{text}]" if style else text)
    wrap.begin(0)
    wrap.put("one two three\none ")
    wrap.put("two", "bold")
    wrap.put(" three")
    assert "".join(written) == "one two three\none\n[two]"


def test_a_word_longer_than_a_line_is_shown_as_it_comes() -> None:
    written: list[str] = []
    wrap = StyledWrap(written.append, lambda: 5, lambda text, style: text)
    wrap.begin(0)
    wrap.put("C" * 12)
    assert "".join(written) == "C" * 10
