"""What the nano says through HTTP, with the real clients, against what the reference says."""

from __future__ import annotations

import base64
import json
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


def test_the_reference_has_learned_every_family() -> None:
    """What the model gets wrong shows an error on the road only if the reference gets it right."""
    assert FIGURES["all"].keys() == families.ALL.keys()
    both = {family: (row["thinking"] + row["plain"]) / 2 for family, row in FIGURES["all"].items()}
    weak = {family: share for family, share in both.items() if share < 0.95 - 1e-9}
    assert not weak


@pytest.mark.parametrize(("type_name", "points"), [("F16", 1), ("Q8_0", 1), ("Q4_K_M", 5)])
def test_accuracy_of_each_family(
    type_name: str, points: int, client: ollama.Client, served: Callable[[str], str]
) -> None:
    model = served(type_name)
    got = {family: examine(client, model, family) for family in families.ALL}
    short = {f: (got[f], FIGURES["families"][f]) for f in got if got[f] < FIGURES["families"][f] - points / 100 - 1e-9}
    assert not short, f"{type_name}: (ours, reference) {short}"


def test_same_greedy_text_as_the_reference(client: ollama.Client, served: Callable[[str], str]) -> None:
    """20 prompts, 64 tokens: the F32 model says letter for letter what the reference says."""
    model = served("F32")
    for case in FIGURES["greedy"]:
        sample = exam(case["family"], case["index"] + 1)[case["index"]]
        options = {"temperature": 0, "num_predict": 64}
        answer = client.chat(model, ollama_messages(sample), tools=sample.tools, think=case["think"], options=options)
        said = (answer.message.thinking or "").strip() + "|" + spoken(answer.message).strip()
        assert said == case["text"], case


def test_eight_streams_say_what_one_says(client: ollama.Client, served: Callable[[str], str]) -> None:
    model = served("F32")
    samples = [exam(family, 1)[0] for family in list(families.ALL)[:8]]

    def stream(sample: families.Sample) -> str:
        parts = client.chat(model, ollama_messages(sample), tools=sample.tools, think=True, stream=True, options=GREEDY)
        return "".join((p.message.thinking or "") + spoken(p.message) for p in parts)

    alone = [stream(sample) for sample in samples]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(stream, samples))
    assert together == alone


@pytest.mark.parametrize("family", list(families.ALL))
def test_answers_to_the_openai_client(family: str, openai_client: openai.OpenAI, served: Callable[[str], str]) -> None:
    # A question that the reference answers rightly.
    index = FIGURES["all"][family]["right_plain"][0]
    sample = exam(family, index + 1)[index]
    messages = openai_messages(sample)
    answer = openai_client.chat.completions.create(
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


def test_openai_stream_separates_thought_from_answer(
    openai_client: openai.OpenAI, served: Callable[[str], str]
) -> None:
    sample = exam("identity", 1)[0]
    stream = openai_client.chat.completions.create(
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


def test_readme_tool_example(openai_client: openai.OpenAI, served: Callable[[str], str]) -> None:
    """The two-step tool conversation of Intern-S1's README with the openai client: what the reference says to it."""
    sample = families.readme_example()
    messages: list[Any] = list(sample.messages)
    extra = {"spaces_between_special_tokens": False, "enable_thinking": False}
    asked = {"model": served("F32"), "tools": sample.tools, "temperature": 0, "extra_body": extra}
    first = openai_client.chat.completions.create(messages=messages, max_tokens=256, **asked).choices[0].message
    called = [(c.function.name, json.loads(c.function.arguments)) for c in first.tool_calls or []]
    expected = [(c["function"]["name"], c["function"]["arguments"]) for c in families.read_calls(FIGURES["readme"][0])]
    assert called == expected
    messages.append(first)
    answers = families.readme_answers(families.read_calls(FIGURES["readme"][0]))
    for call, answer in zip(first.tool_calls or [], answers, strict=True):
        messages.append({**answer, "tool_call_id": call.id})
    last = openai_client.chat.completions.create(messages=messages, **asked).choices[0].message
    assert last.content == FIGURES["readme"][1]
