"""The examples in Intern-S1's README, with the openai client: only the address and the model are ours.

The requests are those of the README, field by field: temperature 0.8, max_tokens past the context, fields that only
LMDeploy knows, the client's own message object sent back, and results of tools with a name and an id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import ollama
import openai
import pytest

from tests.nano.families import readme_answers, readme_example

DEGREES = {"get_current_temperature": 26.1, "get_temperature_date": 25.9}
LMDEPLOY: dict[str, Any] = {"spaces_between_special_tokens": False, "enable_thinking": False}


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="EMPTY", base_url=f"{server}/v1") as client:
        yield client


@pytest.fixture(scope="module")
def model(server: str, served: Callable[[str], str]) -> str:
    """The nano with a seed in its Modelfile, as the README's requests have none. The newest model is listed first."""
    with ollama.Client(server) as client:
        client.create(model="readme", from_=served("F16"), parameters={"seed": 11})
    return "readme"


def call(name: str, location: str, unit: str = "celsius", **date: str) -> str:
    """What the example's two tools return, as JSON."""
    return json.dumps({"temperature": DEGREES[name], "location": location, **date, "unit": unit}, ensure_ascii=False)


def test_tool_calling(client: openai.OpenAI, model: str) -> None:
    sample = readme_example()
    messages: list[Any] = list(sample.messages)
    name = client.models.list().data[0].id
    assert name == f"{model}:latest"
    tools: Any = sample.tools
    response = client.chat.completions.create(
        model=name,
        messages=messages,
        max_tokens=32768,
        temperature=0.8,
        top_p=0.8,
        stream=False,
        extra_body=LMDEPLOY,
        tools=tools,
    )
    asked = response.choices[0].message
    assert response.choices[0].finish_reason == "tool_calls" and asked.tool_calls
    assert asked.content == "I will look it up.", "no mark of a call is left in the content"
    calls = [(one.function.name, json.loads(one.function.arguments)) for one in asked.tool_calls]
    assert calls == [
        ("get_current_temperature", {"location": "San Francisco"}),
        ("get_temperature_date", {"location": "San Francisco", "date": "2024-11-15"}),
    ]
    assert len({one.id for one in asked.tool_calls}) == 2
    messages.append(asked)
    for one in asked.tool_calls:
        result = call(one.function.name, **json.loads(one.function.arguments))
        messages.append({"role": "tool", "name": one.function.name, "content": result, "tool_call_id": one.id})
    response = client.chat.completions.create(
        model=name, messages=messages, temperature=0.8, top_p=0.8, stream=False, extra_body=LMDEPLOY, tools=tools
    )
    assert response.choices[0].finish_reason == "stop" and not response.choices[0].message.tool_calls
    assert response.choices[0].message.content == (
        "It is 26.1 degrees in San Francisco now, and 25.9 degrees on 2024-11-15."
    )


def test_tool_calling_streamed(client: openai.OpenAI, model: str) -> None:
    """The same calls, put together from their pieces."""
    sample = readme_example()
    stream = client.chat.completions.create(
        model=model,
        messages=sample.messages,  # type: ignore[arg-type]
        temperature=0.8,
        top_p=0.8,
        stream=True,
        extra_body=LMDEPLOY,
        tools=sample.tools,  # type: ignore[arg-type]
    )
    calls: dict[int, list[str]] = {}
    content = ""
    for chunk in stream:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        for piece in delta.tool_calls or []:
            parts = calls.setdefault(piece.index, ["", ""])
            parts[0] += piece.function.name or ""
            parts[1] += piece.function.arguments or ""
    said = [{"function": {"name": name, "arguments": json.loads(arguments)}} for name, arguments in calls.values()]
    assert content == "I will look it up." and len(readme_answers(said)) == 2
    assert said[1]["function"]["arguments"] == {"location": "San Francisco", "date": "2024-11-15"}


@pytest.mark.parametrize(
    ("switch", "thinks"),
    [
        ({"enable_thinking": False}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({}, True),
    ],
)
def test_thinking_switch(client: openai.OpenAI, model: str, switch: dict[str, Any], thinks: bool) -> None:
    """Both spellings that the README gives; without them the model thinks."""
    messages: Any = [
        {"role": "user", "content": "who are you"},
        {"role": "assistant", "content": "I am an AI"},
        {"role": "user", "content": "What is 27 + 15?"},
    ]
    response = client.chat.completions.create(
        model=model, messages=messages, temperature=0.7, top_p=0.8, max_tokens=2048, extra_body=switch
    )
    dumped = json.loads(json.dumps(response.model_dump(), ensure_ascii=False))["choices"][0]["message"]
    assert dumped["content"] == "42" and bool(dumped.get("reasoning_content")) is thinks
