"""Calls of tools that a real model writes, as the openai client gathers them from a stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.nano import families
from tests.nano.test_behaviour import FIGURES


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        yield client


def test_the_readmes_calls_come_in_pieces(client: openai.OpenAI, served: Callable[[str], str]) -> None:
    """Both calls of Intern-S1's README example, as the reference makes them."""
    sample = families.readme_example()
    body: dict[str, Any] = {
        "model": served("F32"), "messages": sample.messages, "tools": sample.tools, "temperature": 0, "max_tokens": 256,
        "extra_body": {"enable_thinking": False},
    }  # fmt: skip
    pieces: dict[int, list[str]] = {}
    with client.chat.completions.stream(**body) as stream:
        for event in stream:
            if event.type == "chunk" and event.chunk.choices:
                for delta in event.chunk.choices[0].delta.tool_calls or []:
                    assert delta.function is not None
                    pieces.setdefault(delta.index, []).append(delta.function.arguments or "")
        streamed = stream.get_final_completion().choices[0]
    called = [(c.function.name, json.loads(c.function.arguments)) for c in streamed.message.tool_calls or []]
    expected = [(c["function"]["name"], c["function"]["arguments"]) for c in families.read_calls(FIGURES["readme"][0])]
    assert called == expected
    assert "<|" not in (streamed.message.content or "")
    # A location and a date are several tokens, and each that adds to the text is a piece.
    assert all(len(parts) > 4 and parts[0] == "" for parts in pieces.values())
    whole = client.chat.completions.create(**body).choices[0]
    assert whole.finish_reason == streamed.finish_reason == "tool_calls"
    assert whole.message.content == streamed.message.content
    assert [json.loads(c.function.arguments) for c in whole.message.tool_calls or [] if c.type == "function"] == [
        arguments for _, arguments in called
    ]
