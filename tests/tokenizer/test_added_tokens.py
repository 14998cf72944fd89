"""Splitting at added tokens: leftmost and longest, and the rules about neighbouring spaces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.tokenizer.added_tokens import AddedTokenSplitter
from interns1_local.tokenizer.vocabulary import AddedToken


def token(content: str, **rules: bool) -> AddedToken:
    return AddedToken(len(content), content, True, **rules)


def nonempty(splitter: AddedTokenSplitter, text: str) -> list[str]:
    return [part for part in splitter.split(text) if part]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Describe <SMILES>C1=CC=C(C=C1)C=O</SMILES> and CC1=CC=CC=C1C=O",
            ["Describe ", "<SMILES>", "C1=CC=C(C=C1)C=O", "</SMILES>", " and CC1=CC=CC=C1C=O"],
        ),
        (
            "<think><MOLFORMULA>C6H15O6<MOLFORMULA></think>",
            ["<think>", "<MOLFORMULA>", "C6H15O6", "<MOLFORMULA>", "</think>"],
        ),
        ("", []),
        ("<SMILES", ["<SMILES"]),
    ],
)
def test_published_splits(text: str, expected: list[str]) -> None:
    tokens = [token(content) for content in ("<SMILES>", "</SMILES>", "<think>", "</think>")]
    assert nonempty(AddedTokenSplitter(tokens, ["<MOLFORMULA>", "</MOLFORMULA>"]), text) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("ab<", max_size=20), st.sets(st.text("ab<", min_size=1, max_size=4), max_size=5))
def test_leftmost_then_longest(text: str, contents: set[str]) -> None:
    expected: list[str] = []
    place = start = 0
    while place < len(text):
        found = max((c for c in contents if text.startswith(c, place)), key=len, default="")
        if found:
            expected += [text[start:place], found]
            start = place + len(found)
        place += len(found) or 1
    expected.append(text[start:])
    splitter = AddedTokenSplitter([token(content) for content in sorted(contents)])
    assert nonempty(splitter, text) == [part for part in expected if part]


@pytest.mark.parametrize(
    ("rules", "text", "expected"),
    [
        ({"lstrip": True}, "a  <t>  b", ["a", "<t>", "  b"]),
        ({"rstrip": True}, "a  <t>\n b", ["a  ", "<t>", "b"]),
        ({"lstrip": True, "rstrip": True}, "  <t>  ", ["<t>"]),
        ({"single_word": True}, "a <t> b", ["a ", "<t>", " b"]),
        ({"single_word": True}, "a<t> b", ["a<t>", " b"]),
        ({"single_word": True}, "a <t>b", ["a ", "<t>b"]),
        ({"single_word": True}, "<t>", ["<t>"]),
        ({"single_word": True}, "<t><t>", ["<t><t>"]),
        ({"single_word": True, "lstrip": True}, "a <t> b", ["a", "<t>", " b"]),
    ],
)
def test_rules_about_neighbours(rules: dict[str, bool], text: str, expected: list[str]) -> None:
    assert nonempty(AddedTokenSplitter([token("<t>", **rules)]), text) == expected
