"""Molecules in text: the scanner against its definition as a regular expression, the rules against a walk by letter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.tokenizer.fasta import find_sequences
from interns1_local.tokenizer.smiles import accepts_by_rules, find_candidates

TWO_LETTERS = re.findall(
    "[A-Z][a-z]",
    "AcAgAlAmArAsAtAuBaBeBhBiBkBrCaCdCeCfClCmCnCoCrCsCuDbDsDyErEsEuFeFlFmFrGaGdGeHeHfHgHoHsInIrKrLaLiLrLuLvMc"
    "MdMgMnMoMtNaNbNdNeNhNiNoNpOgOsPaPbPdPmPoPrPtPuRaRbReRfRgRhRnRuSbScSeSgSiSmSnSrTaTbTcTeThTiTlTmTsXeYbZnZr",
)
ONE_LETTER = ["B", "C", "F", "H", "I", "K", "N", "O", "P", "S", "U", "V", "W", "Y", "b", "c", "n", "o", "p", "s"]
UNIT = r"\[[^\]]+\]|" + "|".join(TWO_LETTERS + ONE_LETTER) + r"|[\(\)\.=\-#@\d\$\%\*:\+\-\/\\]"
DEFINITION = re.compile(rf"((?![:.=])(?>{UNIT}){{10,}}(?<![:.=]))")


def defined_candidates(text: str) -> list[tuple[int, int]]:
    return [found.span(1) for found in DEFINITION.finditer(text)]


def test_the_element_table_is_complete() -> None:
    assert len(set(TWO_LETTERS)) == 104
    for element in TWO_LETTERS:
        assert list(find_candidates(element * 10)) == [(0, 20)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Describe C1=CC=C(C=C1)C=O", ["C1=CC=C(C=C1)C=O"]),
        ("CCCCCCCCC", []),
        ("CCCCCCCCCC", ["CCCCCCCCCC"]),
        ("ClClClClClClClClCl", []),
        ("CCCCCCCCC=", []),
        ("CCCCCCCCCC=.:", ["CCCCCCCCCC"]),
        ("CCCCCCCCC===C", ["CCCCCCCCC===C"]),
        ("CCCCCCCCC===[C]", ["CCCCCCCCC===[C]"]),
        ("CCCCCCCCC===[C", []),
        ("..CCCCCCCCCC", ["CCCCCCCCCC"]),
        ("[any text]CCCCCCCCC", ["[any text]CCCCCCCCC"]),
        ("[]CCCCCCCCCC", ["CCCCCCCCCC"]),
        ("[[C]CCCCCCCCC", ["[[C]CCCCCCCCC"]),
        ("x[CCCCCCCCCC]", ["CCCCCCCCCC"]),
        ("x[CCCCCCCCC[C]C", ["CCCCCCCCC[C]C"]),
        ("CCCCCCCCCC CCCCCCCCCC", ["CCCCCCCCCC", "CCCCCCCCCC"]),
        ("١٢٣٤٥٦٧٨٩٠", ["١٢٣٤٥٦٧٨٩٠"]),
    ],
)
def test_candidates(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in find_candidates(text)] == expected
    assert defined_candidates(text) == list(find_candidates(text))


PIECES = st.sampled_from(
    [
        *re.findall(
            r"\S+",
            "C CC CCCCCCCC Cl Br l [ ] [C] [NH4+] [[ ]] = == : . ( ) 1 %12 % @ x é - # n c1 M Mg H",
        ),
        " ",
        "\n",
    ]
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=40))
def test_candidates_are_those_of_the_definition(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert list(find_candidates(text)) == defined_candidates(text)


HOSTILE = [
    "C1CC1(" * 40_000,
    "[" * 60_000,
    "[" * 60_000 + "C]",
    "[" * 50_000 + "C]CCCCCCCC" + "=" * 100_000,
    "[C" * 60_000,
    "[C" * 50_000 + "]",
    "[CCCCCCCCC= " * 10_000 + "C]CCCCCCCC" + "=" * 100_000,
    "CCCCCCCCC=" * 20_000,
    "CCCCCCCCC" + "=" * 200_000,
    "CCCCCCCCC== " * 20_000,
    "[" * 50_000 + "C]X[" + "y" * 100_000 + "]",
    "(" * 200_000,
    "()" * 100_000,
    "[C]" * 70_000,
    "[]" * 100_000,
    "%" * 200_000,
    "C%12" * 50_000,
    "A" * 200_000,
    "[(" * 50_000 + "]" * 50_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_returns(text: str) -> None:
    for start, end in find_candidates(text):
        accepts_by_rules(text[start:end])
    list(find_sequences(text))


BONDS = "-=#:/\\.$"
ORGANIC = {"B", "C", "N", "O", "P", "S", "F", "I", *"bcnosp", *BONDS, *"[]();"}
ELEMENTS = {*TWO_LETTERS, *"HBCNOFPSKVYIWU"}


def walked(text: str) -> bool:
    """The rules as models see them, one letter after the other."""
    if sum("a" <= letter.lower() <= "z" and letter.isascii() for letter in text) < 5:
        return False
    rings: dict[str, bool] = {}
    squares = [0, 0]
    rounds = [0, 0]
    capital, digits, place = False, 0, 0
    while place < len(text):
        letter, step = text[place], 0
        capital = capital or "A" <= letter <= "Z"
        if letter in BONDS and (place in (0, len(text) - 1) or text[place - 1] in BONDS):
            return False
        if letter == "[":
            squares[0] += 1
            if squares[0] > squares[1] + 1 or "]" not in text[place + 1 :]:
                return False
            span = text[place + 1 : text.find("]")]
            if re.search(r"(?:[A-GI-Z]|[a-z]){3,}", span) or re.search(r"\d{4,}", span):
                return False
            if len(re.findall(r"\d+", span)) > 2:
                return False
        squares[1] += letter == "]"
        rounds[0] += letter == "("
        rounds[1] += letter == ")"
        if squares[1] > squares[0] or rounds[1] > rounds[0]:
            return False
        step = 1 if letter in "[]()" else 0
        if squares[0] == squares[1]:
            mark = ""
            if letter.isdigit():
                step, digits = 1, digits + 1
                near = text[max(0, place - 2) : place] if place > 1 else text[:place]
                mark = "" if "%" in near else letter
            elif letter == "%":
                mark = text[place + 1 : place + 3]
                if len(mark) < 2 or not mark[0].isdigit() or not mark[1].isdigit():
                    return False
                step, digits = 3, digits + 1
            if mark:
                rings[mark] = not rings.get(mark, False)
            if not step:
                step = 2 if text[place : place + 2] in ("Cl", "Br") else int(letter in ORGANIC)
                if not step:
                    return False
        place += step or 1
    if squares[0] != squares[1] or any(rings.values()) or (not capital and digits < 2):
        return False
    for part in re.findall(r"\[([^\[\]]*)\]", text):
        if "(" in part or ")" in part or not part:
            return False
        if part[0] in ELEMENTS or part[0] in "bcnosp" or part[:2] in ELEMENTS:
            return True
    return True


RULE_PIECES = st.sampled_from(
    re.findall(
        r"\S+",
        "C C CC C( ) ( c1ccccc1 1 2 1 %12 %12 % = # / \\ . $ N O Cl Br [NH4+] [C@@H] [Fe+2] [abc] [13C] "
        "[2H3O4N5] [12345] [(] [C(] [x%] @ + * H S n [*] [%] [[C] Si - : ٣",
    )
)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(RULE_PIECES, min_size=5, max_size=24))
def test_the_rules_are_those_of_the_walk(pieces: list[str]) -> None:
    text = "".join(pieces)
    for start, end in find_candidates(text):
        candidate = text[start:end]
        assert accepts_by_rules(candidate) is walked(candidate), candidate


@pytest.mark.parametrize(
    ("candidate", "accepted"),
    [
        ("C1=CC=C(C=C1)C=O", True),
        ("CC(=O)OC1=CC=CC=C1C(=O)O", True),
        ("CN1C=NC2=C1C(=O)N(C(=O)N2C)C", True),
        ("C[C@@H](C(=O)O)N", True),
        ("[Na+].[Cl-].CCCCC", True),
        ("C/C=C\\C/C=C\\C", True),
        ("C1CC1(C1CC1(", True),
        ("CCCCCCCCC1", False),
        ("CCCCCCCCC)", False),
        ("CC==CCCCCCC", False),
        ("-CCCCCCCCCC", False),
        ("C@CCCCCCCCC", False),
        ("CCCC+CCCCCC", False),
        ("ccccccccccc", False),
        ("c1ccccc1c1ccccc1", True),
        ("1-2-3-4-5-6", False),
        ("[some words]CCCCCCCCC", False),
        ("CCCCCCCC%1", False),
        ("C%12CCCC%12CC", True),
        ("[C%]1CCCCCCCC", True),
    ],
)
def test_rules(candidate: str, accepted: bool) -> None:
    assert accepts_by_rules(candidate) is accepted
    assert walked(candidate) is accepted
