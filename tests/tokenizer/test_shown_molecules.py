"""Which molecules of a text are shown."""

from __future__ import annotations

import pytest

from interns1_local.tokenizer.shown_molecules import shown_molecules

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Aspirin is {ASPIRIN}.", [ASPIRIN]),
        (f"阿司匹林{ASPIRIN}是药", [ASPIRIN]),
        ("<SMILES>CCO</SMILES> and <SMILES> C </SMILES>", ["CCO", "C"]),
        (f"{ASPIRIN}, <SMILES>{ASPIRIN}</SMILES>, `{ASPIRIN}`", [ASPIRIN] * 3),
        (f"<IUPAC>{ASPIRIN}</IUPAC> <FASTA>CCCCCCCCCCCC</FASTA> <SMILES></SMILES>", []),
        ("CCO is too short without a tag; (a-b)=(c+d) is none", []),
        ("<SMILES>CCO is not closed", []),
        (f"<IUPAC><SMILES>C</SMILES><SMILES> {ASPIRIN}", ["C", ASPIRIN]),
        ("", []),
    ],
)
def test_shown_molecules(text: str, expected: list[str]) -> None:
    found = shown_molecules(text)
    assert [each.smiles for each in found] == expected
    assert all(text[each.start : each.end] == each.smiles for each in found)
