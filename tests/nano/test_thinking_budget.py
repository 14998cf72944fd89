"""A thought that is closed when its budget is spent: the ids of the closing, and the reference's words after them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from click.testing import CliRunner

from interns1_local.commands import interns1
from tests.nano.evaluate import exam
from tests.nano.reference import Reference
from tests.nano.test_logprobs import CLOSE, EXACT, log_softmax

CLOSING = "\n</think>\n\n"


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def model(served: Callable[[str], str]) -> str:
    return served("F32")


def expected(reference: Reference, messages: list[dict[str, Any]], budget: int) -> tuple[list[int], list[int]]:
    """The ids of the thought with its closing, and the reference's greedy words after them."""
    prompt, _ = reference.prompt(messages)
    thought = reference.greedy(prompt, limit=budget) if budget else []
    closing = reference.tokenizer.encode(CLOSING)
    if reference.tokenizer.decode(thought).endswith("\n"):
        closing = closing[1:]
    thought += closing
    return thought, reference.greedy(prompt + thought, limit=80)


@pytest.mark.parametrize("budget", [0, 1, 4, 7])
def test_the_words_after_the_closing_are_the_reference_s(
    budget: int, client: openai.OpenAI, model: str, reference: Reference
) -> None:
    sample = exam("sums", 1)[0]
    thought, words = expected(reference, sample.messages, budget)
    extra = {"thinking_budget": budget, "options": EXACT}
    answer = client.chat.completions.create(
        model=model, messages=sample.messages, temperature=0, max_tokens=200, logprobs=True, extra_body=extra  # type: ignore[arg-type]
    )  # fmt: skip
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.content == reference.tokenizer.decode(words).strip()
    reasoning = getattr(choice.message, "reasoning_content", None) or ""
    assert reasoning.strip() == reference.tokenizer.decode(thought).removesuffix(CLOSING).strip()
    assert usage is not None
    assert usage.completion_tokens == len(thought) + len(words)
    # Given the forced ids, the model's thoughts about what comes next are those of the reference.
    prompt, _ = reference.prompt(sample.messages)
    rows = log_softmax(reference.logits(prompt + thought + words))[len(prompt + thought) - 1 : -1]
    assert choice.logprobs is not None
    found = [entry.logprob for entry in choice.logprobs.content or []]
    assert np.allclose(found, rows[np.arange(len(words)), words], atol=CLOSE)


def test_a_budget_that_is_not_spent_changes_nothing(client: openai.OpenAI, model: str) -> None:
    sample = exam("sums", 1)[0]

    def say(**extra: Any) -> str:
        answer = client.chat.completions.create(
            model=model, messages=sample.messages, temperature=0, extra_body=extra  # type: ignore[arg-type]
        )  # fmt: skip
        message = answer.choices[0].message
        return f"{getattr(message, 'reasoning_content', None)}|{message.content}"

    plain = say()
    assert say(thinking_budget=500) == plain
    assert say(thinking_budget=-1) == plain
    assert say(thinking_budget=0) != plain


def test_every_door(server: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same three tokens of thought by fields, by template arguments, by options, by Modelfile and by flag."""
    sample = exam("sums", 1)[0]
    question = sample.messages[0]["content"]
    greedy = {"temperature": 0, "num_predict": 200}
    thoughts = {}
    with ollama.Client(server) as client, httpx.Client(base_url=server, trust_env=False, timeout=60) as http:
        client.create(model=f"{model}-brief", from_=model, parameters={"think_budget": 3})

        def native(path: str, **body: Any) -> dict[str, Any]:
            response = http.post(path, json={"model": model, "stream": False, "options": greedy, **body})
            assert response.status_code == 200, response.text
            return dict(response.json())

        def compatible(**body: Any) -> str:
            reply = native("/v1/chat/completions", messages=sample.messages, **body)
            return str(reply["choices"][0]["message"]["reasoning_content"])

        thoughts["chat"] = native("/api/chat", messages=sample.messages, think_budget=3)["message"]["thinking"]
        thoughts["generate"] = native("/api/generate", prompt=question, think_budget=3)["thinking"]
        with_option = {**greedy, "think_budget": 3}
        thoughts["option"] = native("/api/chat", messages=sample.messages, options=with_option)["message"]["thinking"]
        brief = native("/api/chat", messages=sample.messages, model=f"{model}-brief")
        thoughts["modelfile"] = brief["message"]["thinking"]
        thoughts["v1"] = compatible(thinking_budget=3)
        thoughts["kwargs"] = compatible(chat_template_kwargs={"thinking_budget": 3})
        thoughts["raw extra_body"] = compatible(extra_body={"thinking_budget": 3})
        refused = http.post("/api/chat", json={"model": model, "messages": sample.messages, "think_budget": "x"})
        assert refused.status_code == 400
        assert "think_budget" in refused.json()["error"]
    monkeypatch.setenv("INTERNS1_HOST", server)
    options = ["--option", "temperature=0", "--option", "num_predict=200"]
    run = CliRunner().invoke(interns1, ["run", model, question, "--think", "--think-budget", "3", *options])
    assert run.exit_code == 0, run.output
    (thought,) = set(thoughts.values())
    assert thought.strip()
    assert thought.strip() in run.output


def test_limits_of_thought_and_answer(client: openai.OpenAI, model: str, reference: Reference) -> None:
    """max_tokens counts both, max_answer_tokens what follows the thought."""
    sample = exam("sums", 1)[0]
    prompt, _ = reference.prompt(sample.messages)
    said = reference.greedy(prompt, limit=200)
    end = said.index(reference.tokenizer.added["</think>"])

    def ask(**options: Any) -> Any:
        return client.chat.completions.create(
            model=model, messages=sample.messages, temperature=0, **options  # type: ignore[arg-type]
        )  # fmt: skip

    for limit in (1, end, end + 3):
        answer = ask(max_completion_tokens=limit)
        assert answer.usage.completion_tokens == limit
        assert answer.choices[0].finish_reason == "length"
    words = reference.tokenizer.decode(said[end + 1 :]).strip()
    answer = ask(extra_body={"max_answer_tokens": 1})
    assert answer.choices[0].finish_reason == "length"
    first = answer.choices[0].message.content
    assert first
    assert words.startswith(first)
    assert len(reference.tokenizer.encode(first)) == 1
    assert answer.usage.completion_tokens_details.reasoning_tokens >= end
    whole = ask(extra_body={"max_answer_tokens": 500})
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (words, "stop")


def test_a_budget_with_a_format(client: openai.OpenAI, model: str) -> None:
    """The closing is one for parsers and grammars too."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 17 + 25? Answer in JSON."}],
        temperature=0,
        max_tokens=60,
        response_format={"type": "json_object"},
        extra_body={"thinking_budget": 2},
    )
    content = answer.choices[0].message.content or ""
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    assert content.lstrip().startswith("{")
