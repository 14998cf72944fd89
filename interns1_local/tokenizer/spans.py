"""Where each token stands in the text that it was made of."""

from __future__ import annotations

from collections.abc import Sequence

# A vocabulary may leave out or change a few characters; further than this its next token is not looked for.
SEARCH_BYTES = 32

Span = tuple[int, int] | tuple[None, None]


def token_spans(text: str, pieces: Sequence[bytes]) -> list[Span]:
    """(start, end) in characters of `text` for each token's bytes, in order; (None, None) for one that is not found.

    A token that holds a part of a character spans that character.
    """
    data = text.encode()
    # Byte -> character, and one more for the end.
    characters: list[int] = []
    for index, character in enumerate(text):
        characters += [index] * len(character.encode())
    characters.append(len(text))
    spans: list[Span] = []
    position = 0
    for piece in pieces:
        start = data.find(piece, position, position + SEARCH_BYTES + len(piece)) if piece else -1
        if start < 0:
            spans.append((None, None))
            continue
        position = start + len(piece)
        spans.append((characters[start], characters[position - 1] + 1))
    return spans
