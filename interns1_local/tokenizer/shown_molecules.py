"""The molecules of a text that a person can be shown drawings of: those in tags, and those found without."""

from __future__ import annotations

import re
from typing import NamedTuple

from interns1_local.tokenizer.smiles import accepts_by_rules, find_molecules

# The tags of Intern-S1's vocabulary; what stands in the other ones is no molecule in SMILES, whatever it looks like.
_TAGGED = re.compile(r"<(SMILES|IUPAC|FASTA|MOLFORMULA)>(.*?)</\1>", re.DOTALL)


class ShownMolecule(NamedTuple):
    """`smiles` is `text[start:end]`; a drawing of it may still fail."""

    start: int
    end: int
    smiles: str


def shown_molecules(text: str) -> list[ShownMolecule]:
    """In the order of the text. The rules decide on those without a tag, so that no RDKit is needed to find them."""
    found = []
    position = 0
    for tagged in _TAGGED.finditer(text):
        found += _untagged(text, position, tagged.start())
        inside = tagged.group(2)
        if tagged.group(1) == "SMILES" and inside.strip():
            start = tagged.start(2) + len(inside) - len(inside.lstrip())
            end = start + len(inside.strip())
            found.append(ShownMolecule(start, end, text[start:end]))
        position = tagged.end()
    return found + _untagged(text, position, len(text))


def _untagged(text: str, start: int, end: int) -> list[ShownMolecule]:
    part = text[start:end]
    return [ShownMolecule(start + a, start + b, part[a:b]) for a, b in find_molecules(part, accepts_by_rules)]
