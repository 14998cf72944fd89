"""Structured answers and enforced calls of the nano, through HTTP with the real clients."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema
import ollama
import openai
import pydantic
import pytest

Served = Callable[[str], str]
SUM = [{"role": "user", "content": "What is 27 + 15?"}]
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 99}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks it up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Paris", "Tokyo"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("get_weather", "get_time")
]


class Answer(pydantic.BaseModel):
    sum: int
    unit: Literal["none", "gram"]


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_schema(client: ollama.Client, served: Served, think: bool, stream: bool) -> None:
    options = {"temperature": 0, "num_predict": 300}
    if stream:
        parts = list(client.chat(served("Q8_0"), SUM, format=SCHEMA, think=think, options=options, stream=True))
        content = "".join(part.message.content or "" for part in parts)
        thinking = "".join(part.message.thinking or "" for part in parts)
    else:
        message = client.chat(served("Q8_0"), SUM, format=SCHEMA, think=think, options=options).message
        content, thinking = message.content or "", message.thinking or ""
    jsonschema.validate(json.loads(content), SCHEMA)
    if think:
        # The thought is as free as without a format, and the answer follows from it.
        plain = client.chat(served("Q8_0"), SUM, think=True, options=options).message.thinking
        assert thinking == plain and "42" in thinking
    else:
        assert not thinking


def test_json_mode(client: ollama.Client, served: Served) -> None:
    """Hot, with many seeds at once: what ends of itself is JSON, what is cut begins like it."""

    def one(seed: int) -> ollama.ChatResponse:
        options = {"temperature": 1.5, "seed": seed, "num_predict": 100}
        return client.chat(served("Q8_0"), SUM, format="json", think=False, options=options)

    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(one, range(8)):
            content = answer.message.content or ""
            assert content.startswith("{")
            if answer.done_reason == "stop":
                assert isinstance(json.loads(content), dict)


def test_parse(openai_client: openai.OpenAI, served: Served) -> None:
    answer = openai_client.chat.completions.parse(
        model=served("Q8_0"),
        messages=SUM,
        response_format=Answer,
        temperature=0,
        max_tokens=300,  # type: ignore[arg-type]
    )
    parsed = answer.choices[0].message.parsed
    assert parsed is not None and parsed.unit in ("none", "gram")


def test_choice_and_regex(openai_client: openai.OpenAI, served: Served) -> None:
    for extra, allowed in (
        ({"guided_choice": ["forty-one", "42", "43"]}, {"forty-one", "42", "43"}),
        ({"guided_regex": "4[0-9]"}, {f"4{digit}" for digit in range(10)}),
    ):
        answer = openai_client.chat.completions.create(
            model=served("Q8_0"),
            messages=SUM,
            temperature=0,
            extra_body={**extra, "enable_thinking": False},  # type: ignore[arg-type]
        )
        assert answer.choices[0].message.content in allowed
        assert answer.choices[0].message.content == "42", "the model's own choice where it is allowed"


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_calls_that_are_asked_for(openai_client: openai.OpenAI, served: Served, think: bool, choice: Any) -> None:
    """To a question that needs no tool the model would not call of itself."""
    body: dict[str, Any] = {
        "model": served("Q8_0"), "messages": SUM, "tools": TOOLS, "tool_choice": choice, "temperature": 0,
        "max_tokens": 400, "parallel_tool_calls": False, "extra_body": {"enable_thinking": think},
    }  # fmt: skip
    whole = openai_client.chat.completions.create(**body).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Tokyo") and list(arguments) == ["city"]
    assert call.function.name in ("get_weather", "get_time")
    if isinstance(choice, dict):
        assert call.function.name == "get_time"
    pieces = [
        delta
        for chunk in openai_client.chat.completions.create(**body, stream=True)
        if chunk.choices
        for delta in chunk.choices[0].delta.tool_calls or []
    ]
    assert pieces[0].function.name == call.function.name
    assert json.loads("".join(piece.function.arguments or "" for piece in pieces)) == arguments


def chain(length: int) -> dict[str, Any]:
    """A schema in which each definition refers to the next: as long as this it would end an ordinary thread."""
    links: dict[str, Any] = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": {"type": "integer"}}}


def test_what_is_refused_costs_nobody_anything(
    client: ollama.Client, openai_client: openai.OpenAI, served: Served
) -> None:
    """Bad and hostile formats among others' answers: an error says which keyword it was, the others go on."""
    model = served("Q8_0")
    options = {"temperature": 0, "num_predict": 60}
    plain = client.chat(model, SUM, think=False, options=options).message.content
    with ThreadPoolExecutor(4) as pool:
        free = [pool.submit(client.chat, model, SUM, think=False, options=options) for _ in range(3)]
        for stream in (True, False):
            with pytest.raises(ollama.ResponseError, match='not supported: "not"') as refused:
                answer = client.chat(model, SUM, format={"type": "object", "not": {}}, stream=stream)  # type: ignore[call-overload]
                list(answer)
            assert refused.value.status_code == 400
        for extra, message in (
            ({"guided_regex": "("}, "unclosed group"),
            ({"guided_grammar": "start: nowhere"}, "nowhere"),
            ({"guided_json": {"type": "integer", "multipleOf": 987654321}}, "fuel"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                openai_client.chat.completions.create(model=model, messages=SUM, extra_body=extra)  # type: ignore[arg-type]
        for extra in ({"guided_json": chain(2000)}, {"grammar": "root ::= ([a-z]? [a-z]?){0,200}"}):
            answer = openai_client.chat.completions.create(model=model, messages=SUM, max_tokens=8, extra_body=extra)  # type: ignore[arg-type]
            assert answer.choices[0].finish_reason in ("length", "stop")
        assert {answer.result().message.content for answer in free} == {plain}
    assert client.chat(model, SUM, think=False, options=options).message.content == plain


def test_no_call_and_strict_calls(openai_client: openai.OpenAI, served: Served) -> None:
    strict: Any = [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]
    body: dict[str, Any] = {
        "model": served("Q8_0"), "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
        "temperature": 0, "max_tokens": 300, "extra_body": {"enable_thinking": False},
    }  # fmt: skip
    free = openai_client.chat.completions.create(**body, tools=TOOLS[:1]).choices[0]
    assert free.finish_reason == "tool_calls", "the model wants to call"
    none = openai_client.chat.completions.create(**body, tools=TOOLS[:1], tool_choice="none").choices[0]
    assert none.finish_reason in ("stop", "length") and not none.message.tool_calls
    assert "<|action_start|>" not in (none.message.content or "")
    held = openai_client.chat.completions.create(**body, tools=strict).choices[0]
    assert held.finish_reason == "tool_calls"
    (call,) = held.message.tool_calls or []
    # It would have asked for Oslo, which is none of the cities that the schema names.
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Tokyo")  # type: ignore[union-attr]


def test_several_answers_in_one_format(openai_client: openai.OpenAI, served: Served) -> None:
    answer = openai_client.chat.completions.create(
        model=served("Q8_0"), messages=SUM, n=3, seed=5, temperature=1.2, max_tokens=300,  # type: ignore[arg-type]
        response_format={"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}},
        extra_body={"thinking_budget": 4},
    )  # fmt: skip
    assert len(answer.choices) == 3
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMA)
