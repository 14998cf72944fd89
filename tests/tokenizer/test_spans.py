"""Where tokens stand in their text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interns1_local.tokenizer.spans import token_spans


@pytest.mark.parametrize(
    ("text", "pieces", "spans"),
    [
        ("abc", [b"a", b"bc"], [(0, 1), (1, 3)]),
        ("\u6c34", ["\u6c34".encode()[:2], "\u6c34".encode()[2:]], [(0, 1), (0, 1)]),
        ("a b", [b"a", b"", b" b"], [(0, 1), (None, None), (1, 3)]),
        ("axb", [b"a", b"b"], [(0, 1), (2, 3)]),
        ("ab", [b"a", b"zzz", b"b"], [(0, 1), (None, None), (1, 2)]),
        ("", [], []),
    ],
)
def test_spans(text: str, pieces: list[bytes], spans: list[object]) -> None:
    assert token_spans(text, pieces) == spans


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(1, 9)))
def test_pieces_of_a_text_cover_it(text: str, sizes: list[int]) -> None:
    data, pieces = text.encode(), []
    for size in [*sizes, len(data)]:
        pieces.append(data[:size])
        data = data[size:]
    spans = [span for piece, span in zip(pieces, token_spans(text, pieces), strict=True) if piece]
    assert all(start is not None for start, _ in spans)
    if text:
        assert spans[0][0] == 0 and spans[-1][1] == len(text)
