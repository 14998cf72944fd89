"""Log-probabilities, seeds, biases, choices and echoes of the nano through HTTP, against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ollama
import openai
import pytest
import torch

from tests.nano.evaluate import exam
from tests.nano.reference import Reference

# Keys and values as exact as the reference's: what is left is the order of sums.
EXACT = {"kv_cache_type": "f32", "num_ctx": 2048}
CLOSE = 2e-4
# Who else is in a batch changes the order of sums again.
AMONG_OTHERS = 2e-3
TOP = 5


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def native(server: str) -> Iterator[ollama.Client]:
    with ollama.Client(server) as client:
        yield client


@pytest.fixture(scope="module")
def model(served: Callable[[str], str]) -> str:
    return served("F32")


def ask(client: openai.OpenAI, model: str, messages: list[dict[str, Any]], **options: Any) -> Any:
    extra = {"options": EXACT, **options.pop("extra_body", {})}
    return client.chat.completions.create(model=model, messages=messages, extra_body=extra, **options)  # type: ignore[call-overload]


def log_softmax(logits: torch.Tensor) -> np.ndarray:
    return torch.log_softmax(logits.double(), -1).numpy()


def check(entries: list[Any], rows: np.ndarray, ids: list[int]) -> None:
    """Each entry is the id of its row, with the reference's log-probability, and so are the alternatives."""
    for entry, row, token in zip(entries, rows, ids, strict=True):
        assert abs(entry.logprob - row[token]) < CLOSE
        assert np.allclose([other.logprob for other in entry.top_logprobs], np.sort(row)[::-1][:TOP], atol=CLOSE)


def test_of_content_and_thought(client: openai.OpenAI, model: str, reference: Reference) -> None:
    sample = exam("sums", 1)[0]
    answer = ask(client, model, sample.messages, temperature=0, logprobs=True, top_logprobs=TOP, max_tokens=120)
    choice = answer.choices[0]
    prompt, _ = reference.prompt(sample.messages)
    said = reference.greedy(prompt, limit=120)
    rows = log_softmax(reference.logits(prompt + said))[len(prompt) - 1 : -1]
    close = reference.tokenizer.added["</think>"]
    end = said.index(close)
    # The line ends around the mark are nobody's words.
    thought = [at for at in range(end) if bytes_of(reference, said[at]).strip()]
    words = [at for at in range(end + 1, len(said)) if bytes_of(reference, said[at]).strip()]
    content, reasoning = choice.logprobs.content, choice.logprobs.reasoning
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == choice.message.content
    check(content, rows[words[0] :], said[words[0] :])
    entries = [type(content[0]).model_validate(entry) for entry in reasoning]
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.reasoning_content
    check(entries, rows[thought[0] : end], said[thought[0] : end])


def bytes_of(reference: Reference, token: int) -> bytes:
    return reference.tokenizer.decode([token]).encode()


def test_ollama_reports_every_token(native: ollama.Client, model: str, reference: Reference) -> None:
    sample = exam("sums", 1)[0]
    options = {"temperature": 0, "num_predict": 120, **EXACT}
    answer = native.chat(model, sample.messages, options=options, logprobs=True, top_logprobs=TOP)
    prompt, _ = reference.prompt(sample.messages)
    said = reference.greedy(prompt, limit=120)
    rows = log_softmax(reference.logits(prompt + said))[len(prompt) - 1 : -1]
    check(list(answer.logprobs or []), rows, said)


def test_a_prompt_and_its_continuation(client: openai.OpenAI, model: str, reference: Reference) -> None:
    """echo with logprobs: what lm-evaluation tools ask for. Also of ids, and with no continuation at all."""
    text = "Question: What is 17 + 25?\nThe molecule CCO is ethanol. 分子是什么? <SMILES>C1=CC=CC=C1</SMILES> and more"
    ids = reference.tokenizer.encode(text)
    rows = log_softmax(reference.logits(ids))
    wanted = [rows[place, token] for place, token in enumerate(ids[1:])]
    for prompt in (text, ids):
        answer = client.completions.create(
            model=model, prompt=prompt, echo=True, logprobs=TOP, max_tokens=0, extra_body={"options": EXACT}
        )
        found = answer.choices[0].logprobs
        assert found is not None
        assert found.token_logprobs is not None
        assert len(found.token_logprobs) == len(ids)
        assert found.token_logprobs[0] is None
        assert np.abs(np.array(found.token_logprobs[1:]) - wanted).max() < CLOSE
        assert answer.choices[0].text == text
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)


def test_a_long_prompt_is_scored_while_others_answer(client: openai.OpenAI, model: str, reference: Reference) -> None:
    sample = exam("sums", 1)[0]
    ids = reference.tokenizer.encode(" ".join(f"{n} plus {n} is {2 * n}." for n in range(60)))
    rows = log_softmax(reference.logits(ids))
    wanted = [rows[place, token] for place, token in enumerate(ids[1:])]

    def score(_: int) -> list[float]:
        answer = client.completions.create(
            model=model, prompt=ids, echo=True, logprobs=0, max_tokens=1, extra_body={"options": EXACT}
        )
        assert answer.choices[0].logprobs is not None
        return list(answer.choices[0].logprobs.token_logprobs or [])[1 : len(ids)]

    alone = ask(client, model, sample.messages, temperature=0, max_tokens=100).choices[0].message.content
    with ThreadPoolExecutor(6) as pool:
        scores = [pool.submit(score, number) for number in range(3)]
        answers = [pool.submit(ask, client, model, sample.messages, temperature=0, max_tokens=100) for _ in range(3)]
        for scored in scores:
            assert np.abs(np.array(scored.result()) - wanted).max() < AMONG_OTHERS
        assert {answer.result().choices[0].message.content for answer in answers} == {alone}


def test_seeds(client: openai.OpenAI, model: str) -> None:
    """A seed gives its answer again, also among seven others; other seeds give others."""
    messages = [{"role": "user", "content": "Tell me about molecules, please."}]
    extra = {"enable_thinking": False, "top_k": 0, "top_p": 1.0}

    def say(seed: int) -> str:
        answer = ask(client, model, messages, seed=seed, temperature=3.0, max_tokens=40, extra_body=dict(extra))
        return str(answer.choices[0].message.content)

    alone = say(7)
    assert say(7) == alone
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(say, [7, 8, 9, 10, 11, 12, 13, 7]))
    assert together[0] == together[7] == alone
    assert len(set(together)) == 7


def test_choices_share_the_prompt_and_differ(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": f"Tell me about molecules, please. {'Please! ' * 60}"}]
    extra = {"enable_thinking": False, "top_k": 0, "top_p": 1.0}
    options: dict[str, Any] = {"temperature": 3.0, "max_tokens": 24, "seed": 3}
    answer = ask(client, model, messages, n=6, extra_body=dict(extra), **options)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert len(set(texts)) == 6
    # The first is what one alone would be, and the others come again too.
    assert ask(client, model, messages, extra_body=dict(extra), **options).choices[0].message.content == texts[0]
    again = ask(client, model, messages, n=6, extra_body=dict(extra), stream=True, **options)
    streamed = [""] * 6
    for chunk in again:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    # The prompt counts once.
    assert answer.usage.completion_tokens <= 6 * 24
    alone = ask(client, model, messages, max_tokens=1, extra_body=dict(extra))
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert alone.usage.prompt_tokens_details.cached_tokens >= alone.usage.prompt_tokens - 1


def test_biases_forbid_and_force(client: openai.OpenAI, model: str, reference: Reference) -> None:
    sample = exam("sums", 1)[0]
    plain = ask(client, model, sample.messages, temperature=0, extra_body={"enable_thinking": False})
    first = reference.tokenizer.encode(plain.choices[0].message.content)[0]
    word = reference.tokenizer.encode("hello")[0]
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 4, "extra_body": {"enable_thinking": False}}
    for seed in range(3):
        banned = ask(client, model, sample.messages, logit_bias={first: -100}, seed=seed, **options)
        assert reference.tokenizer.encode(banned.choices[0].message.content)[:1] != [first]
        options["extra_body"] = {"enable_thinking": False}
        forced = ask(client, model, sample.messages, logit_bias={word: 100}, seed=seed, **options)
        piece = reference.tokenizer.decode([word])
        assert forced.choices[0].message.content == piece * 4
    with pytest.raises(openai.BadRequestError, match="names token 999999"):
        ask(client, model, sample.messages, logit_bias={999999: 1})


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_over_tokens(client: openai.OpenAI, model: str, reference: Reference, stream: bool) -> None:
    """The text before it exactly, nothing after it, and the tokens counted that were chosen until it was whole."""
    ids = reference.tokenizer.encode("1 2 3 4 5 6 7 8 9")
    said = reference.greedy(ids, limit=24)
    text = reference.tokenizer.decode(said)
    middle = len(text) // 2
    stop = text[middle - 2 : middle + 3]
    cut = text.index(stop)
    used = next(n for n in range(len(said) + 1) if stop in reference.tokenizer.decode(said[:n]))
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "stop": ["nowhere", stop]}
    options["extra_body"] = {"options": EXACT}
    if stream:
        with_usage = {"include_usage": True}
        chunks = list(
            client.completions.create(model=model, prompt=ids, stream=True, stream_options=with_usage, **options)
        )
        got = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        reason = next(chunk.choices[0].finish_reason for chunk in reversed(chunks) if chunk.choices)
        usage = chunks[-1].usage
    else:
        answer = client.completions.create(model=model, prompt=ids, **options)
        got, reason, usage = answer.choices[0].text, answer.choices[0].finish_reason, answer.usage
    assert (got, reason) == (text[:cut], "stop")
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(ids), used)
