"""The molecules, proteins and names of a text that a person is shown: those in tags, and those found without."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from interns1_local.tokenizer.fasta import find_sequences
from interns1_local.tokenizer.smiles import accepts_by_rules, find_molecules

_TAG = re.compile(r"<(/?)(SMILES|SELFIES|IUPAC|FASTA|MOLFORMULA)>")


class Notation(NamedTuple):
    """`kind` is a tag in lower case; `start` and `end` are places in characters, tags included."""

    kind: str
    start: int
    end: int
    value: str
    tagged: bool


def find_science(text: str) -> Iterator[Notation]:
    """In the order of the text. The rules decide on molecules without a tag, so that none needs RDKit to be found."""
    position = 0
    for start, end, kind, value in _tagged(text):
        yield from _untagged(text, position, start)
        if value:
            yield Notation(kind, start, end, value, True)
        position = end
    yield from _untagged(text, position, len(text))


def _tagged(text: str) -> Iterator[tuple[int, int, str, str]]:
    """One pass: a tag that is never closed costs nothing."""
    opened: re.Match[str] | None = None
    for found in _TAG.finditer(text):
        if not found.group(1):
            opened = found
        elif opened is not None and opened.group(2) == found.group(2):
            value = text[opened.end() : found.start()].strip()
            yield opened.start(), found.end(), found.group(2).lower(), value
            opened = None


def _untagged(text: str, start: int, end: int) -> Iterator[Notation]:
    piece = text[start:end]
    # Bold in Markdown, where a molecule could have two bare atoms, which none that people write has.
    plain = piece.replace("**", "  ")
    spans = [("smiles", *span) for span in find_molecules(plain, accepts_by_rules)]
    spans += [("fasta", *span) for span in find_sequences(piece) if not _overlaps(span, spans)]
    for kind, first, last in sorted(spans, key=lambda span: span[1]):
        yield Notation(kind, start + first, start + last, piece[first:last], False)


def _overlaps(span: tuple[int, int], others: Sequence[tuple[str, int, int]]) -> bool:
    return any(span[0] < last and first < span[1] for _, first, last in others)
