"""What the nano says through HTTP, with the real clients, against what the reference says."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from interns1_local.nano.pictures import png
from tests.nano import families
from tests.nano.evaluate import exam, is_right, plain

# The reference's own figures on the same questions, written by `python -m tests.nano.evaluate --write`.
FIGURES = json.loads((Path(__file__).parent / "reference_figures.json").read_text())
NUMBER = FIGURES["number"]
GREEDY = {"temperature": 0, "num_predict": 160}


def spoken(message: ollama.Message) -> str:
    """An answer as the examiner reads it: content, then the calls in Intern-S1's grammar."""
    calls = [families.call_text(c.function.name, dict(c.function.arguments)) for c in message.tool_calls or []]
    return (message.content or "") + "".join(calls)


def ollama_messages(sample: families.Sample) -> list[dict[str, Any]]:
    messages = [dict(m) for m in sample.messages]
    for message in messages:
        if message["role"] == "tool":
            message["tool_name"] = message.pop("name")
    if sample.images:
        messages[-1]["images"] = [png(image) for image in sample.images]
    return messages


def examine(client: ollama.Client, model: str, family: str) -> float:
    """The share of right answers, thinking at every second question, eight at once."""

    def one(numbered: tuple[int, families.Sample]) -> bool:
        index, sample = numbered
        answer = client.chat(
            model, ollama_messages(sample), tools=sample.tools, think=index % 2 == 0, options=GREEDY
        ).message
        assert "<think>" not in (answer.content or "") and "</think>" not in (answer.content or "")
        return is_right(sample, spoken(answer))

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(one, enumerate(exam(family, NUMBER)))) / NUMBER


@pytest.mark.parametrize(("type_name", "points"), [("F16", 1), ("Q8_0", 1), ("Q4_K_M", 5)])
def test_accuracy_of_each_family(type_name: str, points: int, server: str, served: Callable[[str], str]) -> None:
    client = ollama.Client(server)
    model = served(type_name)
    got = {family: examine(client, model, family) for family in families.ALL}
    # One question more or less is allowed where the exam is too short to resolve a point.
    margin = max(points / 100, 1 / NUMBER)
    short = {f: (got[f], FIGURES["families"][f]) for f in got if got[f] < FIGURES["families"][f] - margin - 1e-9}
    assert not short, f"{type_name}: (ours, reference) {short}"


def test_same_greedy_text_as_the_reference(server: str, served: Callable[[str], str]) -> None:
    """20 prompts, 64 tokens: the F32 model says letter for letter what the reference says."""
    client = ollama.Client(server)
    model = served("F32")
    for case in FIGURES["greedy"]:
        sample = exam(case["family"], case["index"] + 1)[case["index"]]
        options = {"temperature": 0, "num_predict": 64}
        answer = client.chat(model, ollama_messages(sample), tools=sample.tools, think=case["think"], options=options)
        said = (answer.message.thinking or "") + "|" + spoken(answer.message)
        assert said == case["text"], case


def test_eight_streams_say_what_one_says(server: str, served: Callable[[str], str]) -> None:
    client = ollama.Client(server)
    model = served("Q8_0")
    samples = [exam(family, 1)[0] for family in list(families.ALL)[:8]]

    def stream(sample: families.Sample) -> str:
        parts = client.chat(model, ollama_messages(sample), tools=sample.tools, think=True, stream=True, options=GREEDY)
        return "".join((p.message.thinking or "") + spoken(p.message) for p in parts)

    alone = [stream(sample) for sample in samples]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(stream, samples))
    assert together == alone


@pytest.mark.parametrize("family", list(families.ALL))
def test_openai_client(family: str, server: str, served: Callable[[str], str]) -> None:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    sample = next(s for s in exam(family, 12))
    messages = openai_messages(sample)
    answer = client.chat.completions.create(
        model=served("F16"),
        messages=messages,
        tools=sample.tools or openai.NOT_GIVEN,
        temperature=0,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    ).choices[0]
    calls = [
        families.call_text(c.function.name, json.loads(c.function.arguments)) for c in answer.message.tool_calls or []
    ]
    assert is_right(sample, (answer.message.content or "") + "".join(calls))
    assert answer.finish_reason == ("tool_calls" if calls else "stop")


def openai_messages(sample: families.Sample) -> list[dict[str, Any]]:
    messages = [dict(m) for m in sample.messages]
    names: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            # A client that sends only the id of the call: the name is found from it.
            del message["name"]
            message["tool_call_id"] = names.pop(0)
        for number, call in enumerate(message.get("tool_calls", [])):
            names.append(f"call_{number}")
            arguments = json.dumps(call["function"]["arguments"])
            message["tool_calls"][number] = {
                "id": names[-1],
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": arguments},
            }
    if sample.images:
        parts = [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(i)).decode()}}
            for i in sample.images
        ]
        messages[-1]["content"] = [*parts, {"type": "text", "text": messages[-1]["content"]}]
    return messages


def test_openai_stream_separates_thought_from_answer(server: str, served: Callable[[str], str]) -> None:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none")
    sample = exam("sums", 1)[0]
    stream = client.chat.completions.create(
        model=served("F16"),
        messages=sample.messages,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    thought, answer, usage = "", "", None
    for chunk in stream:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            answer += choice.delta.content or ""
        usage = chunk.usage or usage
    assert plain(thought) == sample.thought and plain(answer) == sample.key
    assert usage and usage.completion_tokens > 10


def test_readme_tool_example(server: str, served: Callable[[str], str]) -> None:
    """The two-step tool conversation of Intern-S1's README, with the openai client."""
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="EMPTY")
    sample = families.readme_calls(random.Random(1), True)
    question = "Today is 2024-11-14, What's the temperature in San Francisco now? How about tomorrow?"
    messages: list[Any] = [{"role": "user", "content": question}]
    extra = {"spaces_between_special_tokens": False, "enable_thinking": False}
    first = client.chat.completions.create(
        model=served("F16"), messages=messages, max_tokens=512, temperature=0, tools=sample.tools, extra_body=extra
    ).choices[0]
    assert [c.function.name for c in first.message.tool_calls or []] == [
        "get_current_temperature",
        "get_temperature_date",
    ]
    assert json.loads(first.message.tool_calls[1].function.arguments)["date"] == "2024-11-15"
    messages.append(first.message)
    for call, degrees in zip(first.message.tool_calls, (26.1, 25.9), strict=True):
        result = {"temperature": degrees, **json.loads(call.function.arguments), "unit": "celsius"}
        messages.append(
            {"role": "tool", "name": call.function.name, "content": json.dumps(result), "tool_call_id": call.id}
        )
    last = client.chat.completions.create(
        model=served("F16"), messages=messages, temperature=0, tools=sample.tools, extra_body=extra
    ).choices[0]
    assert "26.1" in last.message.content and "25.9" in last.message.content
