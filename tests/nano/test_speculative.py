"""Guessing ahead through a real server: the nano says the same with it as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import ollama
import pytest

SENTENCES = "The SMILES of caffeine is CN1C=NC2=C1C(=O)N(C(=O)N2C)C. " * 4


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_answer(client: ollama.Client, served: Callable[[str], str], temperature: float) -> None:
    def answer(speculative: str) -> tuple[str, int]:
        options = {"speculative": speculative, "temperature": temperature, "seed": 5, "num_predict": 30}
        found = client.generate(served("F32"), SENTENCES, raw=True, options=options)
        return found.response, found.eval_count

    assert answer("auto") == answer("off")


def create(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/api/create", json={**fields, "stream": False}, timeout=60)


def test_a_draft_model_through_the_server(client: ollama.Client, server: str, served: Callable[[str], str]) -> None:
    assert create(server, model="quick", **{"from": served("F32"), "draft": served("Q8_0")}).status_code == 200

    def answer(model: str, speculative: str, question: str) -> str:
        options = {"speculative": speculative, "temperature": 0, "num_predict": 40}
        return client.chat(model, [{"role": "user", "content": question}], options=options).message.content or ""

    for question in ("What is 27 + 15?", "What is the SMILES of aspirin?"):
        expected = answer(served("F32"), "off", question)
        assert answer("quick", "draft", question) == answer("quick", "auto", question) == expected


def test_a_guided_answer_is_the_same(client: ollama.Client, served: Callable[[str], str]) -> None:
    schema = {
        "type": "object",
        "properties": {"kind_of_answer_given": {"enum": ["the sum of both", "the product of both"]}},
        "required": ["kind_of_answer_given"],
    }

    def answer(speculative: str) -> str:
        options = {"speculative": speculative, "temperature": 0, "num_predict": 80}
        question = [{"role": "user", "content": "What is 27 + 15?"}]
        return client.chat(served("F32"), question, format=schema, options=options).message.content or ""

    guided = answer("auto")
    assert guided == answer("off")
    assert guided.startswith("{") and '"kind_of_answer_given"' in guided
