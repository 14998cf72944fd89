"""The molecules of a text that a person can be shown drawings of: those in tags, and those found without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from interns1_local.tokenizer.smiles import accepts_by_rules, find_molecules

# The tags of Intern-S1's vocabulary; what stands in the other ones is no molecule in SMILES, whatever it looks like.
_OPEN = re.compile(r"<(SMILES|IUPAC|FASTA|MOLFORMULA)>")


class ShownMolecule(NamedTuple):
    """`smiles` is `text[start:end]`; a drawing of it may still fail."""

    start: int
    end: int
    smiles: str


def shown_molecules(text: str) -> list[ShownMolecule]:
    """In the order of the text. The rules decide on those without a tag, so that no RDKit is needed to find them."""
    found = []
    position = 0
    for name, start, end in _tagged(text):
        found += _untagged(text, position, start - len(name) - 2)
        inside = text[start:end]
        if name == "SMILES" and inside.strip():
            start += len(inside) - len(inside.lstrip())
            end = start + len(inside.strip())
            found.append(ShownMolecule(start, end, text[start:end]))
        position = end
    return found + _untagged(text, position, len(text))


def _tagged(text: str) -> Iterator[tuple[str, int, int]]:
    """(tag, start, end) of what stands between tags. A tag that is not closed is text."""
    never_closed = set()
    position = 0
    while opened := _OPEN.search(text, position):
        name, position = opened.group(1), opened.end()
        end = -1 if name in never_closed else text.find(f"</{name}>", position)
        if end < 0:
            # Nor is any later one; not to look for it again keeps this linear in the text.
            never_closed.add(name)
        else:
            yield name, position, end
            position = end


def _untagged(text: str, start: int, end: int) -> list[ShownMolecule]:
    part = text[start:end]
    return [ShownMolecule(start + a, start + b, part[a:b]) for a, b in find_molecules(part, accepts_by_rules)]
