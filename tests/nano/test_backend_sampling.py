"""Tokens chosen in llama.cpp's graph, through the public door: the answers of a model that is loaded without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ollama

from tests.nano.evaluate import exam
from tests.nano.families import Sample


def test_the_same_answers_with_and_without(client: ollama.Client, served: Callable[[str], str]) -> None:
    samples = [*exam("sums", 2), *exam("identity", 2)]

    def answers(sampling: str, **options: Any) -> list[str]:
        return [answer(client, served("F16"), sample, {**options, "backend_sampling": sampling}) for sample in samples]

    for way in ({"temperature": 0}, {"temperature": 1.5, "seed": 7}):
        outside = answers("off", **way)
        assert answers("on", **way) == outside
        assert all(outside)


def answer(client: ollama.Client, model: str, sample: Sample, options: dict[str, Any]) -> str:
    message = {"role": "user", "content": sample.messages[-1]["content"]}
    return client.chat(model, [message], think=False, options={"num_predict": 24, **options}).message.content or ""
