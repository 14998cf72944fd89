"""Tokens chosen in llama.cpp's graph, through the public door: the answers of a model that is loaded without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ollama

from tests.nano.conftest import chat
from tests.nano.evaluate import exam


def test_the_same_answers_with_and_without(client: ollama.Client, served: Callable[[str], str]) -> None:
    samples = [*exam("sums", 2), *exam("identity", 2)]

    def answers(sampling: str, **options: Any) -> list[str]:
        fixed = {"num_predict": 24, "backend_sampling": sampling}
        return [chat(client, served("F16"), sample, options | fixed) for sample in samples]

    for way in ({"temperature": 0}, {"temperature": 1.5, "seed": 7}):
        outside = answers("off", **way)
        assert answers("on", **way) == outside
        assert all(outside)
