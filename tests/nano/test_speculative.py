"""Guessing ahead through a real server: the nano says the same with it as without."""

from __future__ import annotations

from collections.abc import Callable

import ollama
import pytest

SENTENCES = "The SMILES of caffeine is CN1C=NC2=C1C(=O)N(C(=O)N2C)C. " * 4


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_answer(client: ollama.Client, served: Callable[[str], str], temperature: float) -> None:
    def answer(speculative: str) -> tuple[str, int]:
        options = {"speculative": speculative, "temperature": temperature, "seed": 5, "num_predict": 60}
        found = client.generate(served("F32"), SENTENCES, raw=True, options=options)
        return found.response, found.eval_count

    assert answer("auto") == answer("off") == answer("lookup")
