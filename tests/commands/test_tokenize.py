"""`interns1 tokenize`: the coloured text, the table, and stock llama.cpp beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.commands.conftest import Invoke
from tests.commands.fake_server import FakeServer


def token(id: int, piece: str, start: int | None, end: int | None, domain: str | None = None) -> dict[str, Any]:
    return {"id": id, "piece": piece, "domain": domain, "start": start, "end": end}


@pytest.fixture
def molecule(fake: FakeServer) -> FakeServer:
    """`of CC é`, whose last letter is two tokens to us, and one to stock llama.cpp."""
    fake.tokens = [
        token(5, "of ", 0, 3),
        token(901, "CC", 3, 5, "smiles"),
        token(6, "Ġ", 5, 6),
        token(7, "Ã", 6, 7),
        token(8, "©", 6, 7),
    ]
    fake.stock_tokens = [token(5, "of ", 0, 3), token(70, "CC", 3, 5), token(6, "Ġ", 5, 6), token(9, "é", 6, 7)]
    return fake


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines() if line.strip()[:1].isdigit() and "tokens" not in line]


def test_the_text_and_its_table(molecule: FakeServer, invoke: Invoke) -> None:
    output = invoke("tokenize", "nano", "of", "CC", "é").output
    assert molecule.asked("/api/tokenize") == [{"model": "nano", "content": "of CC é", "details": True}]
    assert output.splitlines()[0] == "of CC é"
    assert rows(output) == [
        ["5", "of·", "0-3"],
        ["901", "CC", "smiles", "3-5"],
        ["6", "Ġ", "5-6"],
        ["7", "Ã", "6-7"],
        ["8", "©", "6-7"],
    ]
    assert output.endswith("5 tokens, 1 of them science tokens\n")


def test_beside_stock_llama_cpp(molecule: FakeServer, invoke: Invoke) -> None:
    output = invoke("tokenize", "nano", "--stock", "of CC é").output
    assert [body.get("stock") for body in molecule.asked("/api/tokenize")] == [None, True]
    assert rows(output)[:4] == [
        ["5", "of·", "0-3", "5", "of·"],
        ["901", "CC", "smiles", "3-5", "70", "CC"],
        ["6", "Ġ", "5-6", "6", "Ġ"],
        ["7", "Ã", "6-7", "9", "é"],
    ]
    assert output.endswith("stock llama.cpp: 4 tokens, 3 ids differ\n")
    molecule.stock_tokens = molecule.tokens
    assert invoke("tokenize", "nano", "--stock", "x").output.endswith("no id differs\n")


def test_ids_and_json(molecule: FakeServer, invoke: Invoke) -> None:
    assert invoke("tokenize", "nano", "--ids", stdin="piped").output == "5 901 6 7 8\n"
    assert molecule.asked("/api/tokenize")[-1]["content"] == "piped"
    assert invoke("tokenize", "nano", "--ids", "--stock", "x").output == "5 901 6 7 8\n5 70 6 9\n"
    answer = json.loads(invoke("tokenize", "nano", "x", "--json", "--stock").output)
    assert answer["details"] == molecule.tokens and answer["stock"]["tokens"] == [5, 70, 6, 9]


def test_a_token_without_a_place(fake: FakeServer, invoke: Invoke) -> None:
    fake.tokens = [token(1, "[bold]", None, None), token(2, "x", 0, 1)]
    output = invoke("tokenize", "nano", "x [/bold]").output
    assert output.splitlines()[0] == "x [/bold]"
    assert ["1", "[bold]"] in rows(output)
