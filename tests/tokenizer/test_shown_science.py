"""Which molecules, sequences and names of a text are shown."""

from __future__ import annotations

import pytest

from interns1_local.tokenizer.shown_science import find_science

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
def test_molecules(text: str, expected: list[str]) -> None:
    found = [each for each in find_science(text) if each.kind == "smiles"]
    assert [each.value for each in found] == expected
    for each in found:
        place = text[each.start : each.end]
        inside = place.removeprefix("<SMILES>").removesuffix("</SMILES>").strip() if each.tagged else place
        assert inside == each.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"é𝔸 {ASPIRIN}.", [("smiles", ASPIRIN, False)]),
        ("<SMILES> CCO </SMILES> and <IUPAC>ethanol</IUPAC>", [("smiles", "CCO", True), ("iupac", "ethanol", True)]),
        ("<FASTA>MKV</FASTA>" + "M" * 30, [("fasta", "MKV", True), ("fasta", "M" * 30, False)]),
        (f"**{ASPIRIN}**", [("smiles", ASPIRIN, False)]),
        ("<SMILES>CCO", []),
        ("<SMILES><FASTA>MK</FASTA></SMILES>", [("fasta", "MK", True)]),
        ("<SMILES></SMILES>Words only.", []),
    ],
)
def test_science_in_a_text(text: str, expected: list[tuple[str, str, bool]]) -> None:
    found = list(find_science(text))
    assert [(each.kind, each.value, each.tagged) for each in found] == expected
    for each in found:
        assert each.value in text[each.start : each.end]
