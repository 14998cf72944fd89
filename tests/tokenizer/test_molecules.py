"""RDKit as the judge of molecules: its own verdict where it answers in time, and an answer where it would not."""

from __future__ import annotations

import random

import pytest
from rdkit import Chem, rdBase

from interns1_local.errors import BadRequest
from interns1_local.tokenizer import molecules
from interns1_local.tokenizer.molecules import choose_detection, molecule_test
from interns1_local.tokenizer.smiles import accepts_by_rules

rdBase.DisableLog("rdApp.*")

UNITS = (
    r"C CC N O (C) =O (=O) c1ccccc1 [Na+] [nH] n c o s Cl Br #N /C=C/ \ 1 2 %10 %10 : [H] [2H] [C@@H] [n+] [O-] * "
    r"S(=O)(=O) [*] . $ @ + c1cc[nH]c1 c1ccc2c(c1)cccc2 n([H]) [H+] [Fe+2] [U] ( ) P F I B b p [se] -> [C:1] [CH5] [#6]"
).split()


def test_the_verdict_is_rdkits() -> None:
    rng, is_molecule = random.Random(3), molecule_test("rdkit")
    accepted = 0
    for _ in range(6000):
        units = rng.sample(UNITS, rng.randint(3, 8))
        text = "".join(rng.choices(units, k=rng.randint(4, 20)))
        letters = sum(letter.isascii() and letter.isalpha() for letter in text)
        if text.count("*") + text.count("[#") > molecules.MAX_DUMMY_ATOMS:
            continue
        expected = letters >= 5 and Chem.MolFromSmiles(text) is not None
        assert is_molecule(text) is expected, text
        accepted += expected
    assert accepted > 100


def test_where_rdkit_and_the_rules_differ() -> None:
    judged = {
        "CC(C)(C)(C)CCCC": (False, True),  # five bonds at one carbon
        "C1CC1(C1CC1(": (False, True),
        "C[C@@H](F)[C@H](Cl)*": (True, False),
        "CC(=O)Oc1ccccc1C(=O)O": (True, True),
        "c1c(ccc(#c1)Cl)CCO": (True, True),  # valences are judged with aromatic bonds
    }
    assert {text: (molecule_test("rdkit")(text), accepts_by_rules(text)) for text in judged} == judged


def ladder(rings: int) -> str:
    """A closed band of fused aromatic rings: RDKit's time and memory double with every two of them."""
    return "c14c2" + "/n4c2" * rings + "/n1"


@pytest.mark.parametrize(
    "text",
    [
        ladder(61),
        "c1" + ":*:n" * 40 + ":[nH]:1",
        "c1ccccc1" * 40_000,
        "C1CC1(" * 40_000,
        "C1CC1(" * 40_000 + "C" + ")" * 40_000,
        "c1" + "c" * 3000 + "1",
        ladder(61) + ".C" * 80,
        "[H]n1" + ladder(61),
    ],
    ids=lambda text: text[:12],
)
def test_what_could_hold_rdkit_up_is_answered(text: str) -> None:
    assert molecule_test("rdkit")(text) in (True, False)


def test_the_bounds_are_far_from_medicine() -> None:
    vancomycin = (
        "C[C@H]1[C@H]([C@@](C[C@@H](O1)O[C@@H]2[C@H]([C@@H]([C@H](O[C@H]2OC3=C4C=C5C=C3OC6=C(C=C(C=C6)[C@H]([C@H](C(=O)N"
        "[C@H](C(=O)N[C@H]5C(=O)N[C@@H]7C8=CC(=C(C=C8)O)C9=C(C=C(C=C9O)O)[C@H](NC(=O)[C@H]([C@@H](C1=CC(=C(O4)C=C1)Cl)O)"
        "NC7=O)C(=O)O)CC(=O)N)NC(=O)[C@@H](CC(C)C)NC)O)Cl)CO)O)O)(C)N)O"
    )
    peptide = "N" + "[C@@H](Cc1ccccc1)C(=O)N" * 100 + "CC(=O)O"
    for text in (vancomycin, peptide):
        assert molecule_test("rdkit")(text)
        assert not molecule_test("rdkit")(text.replace("C(=O)", "C(=O)(C)(C)", 1))


@pytest.mark.parametrize(("value", "chosen"), [("", "rdkit"), ("rules", "rules"), (" RDKit ", "rdkit")])
def test_the_environment_chooses(value: str, chosen: str) -> None:
    assert choose_detection({"INTERNS1_SMILES_DETECTION": value}) == chosen


def test_without_rdkit_the_rules_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecules, "find_spec", lambda name: None)
    assert choose_detection({}) == "rules"
    with pytest.raises(Exception, match=r"interns1-local\[science\]"):
        molecule_test(choose_detection({"INTERNS1_SMILES_DETECTION": "rdkit"}))


def test_a_choice_that_does_not_exist() -> None:
    with pytest.raises(BadRequest, match="rules or rdkit"):
        choose_detection({"INTERNS1_SMILES_DETECTION": "both"})
