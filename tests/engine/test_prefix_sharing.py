"""Shared beginnings on a real model: the same answers as without, and cells counted as llama.cpp counts them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineRequest
from interns1_local.engine.llama import Batch, CacheFull
from interns1_local.engine.sampling import SamplingParams

MakeEngine = Callable[..., Engine]


def conversations(count: int) -> list[EngineRequest]:
    """Requests of a few shared beginnings, at different lengths, some sampled and some with log-probabilities."""
    random = np.random.default_rng(5)
    roots = [random.integers(0, 250, 120).tolist() for _ in range(3)]
    requests = []
    for id in range(count):
        root = roots[int(random.integers(3))]
        prompt = root[: int(random.integers(20, 121))] + random.integers(0, 250, int(random.integers(1, 40))).tolist()
        sampling = SamplingParams(
            temperature=0.0 if id % 2 else 0.9, seed=id, ignore_eos=True, logprobs=2 if id % 3 == 0 else None,
            repeat_penalty=1.1,
        )  # fmt: skip
        requests.append(EngineRequest(id, prompt, sampling, int(random.integers(4, 40))))
    return requests


def answers(engine: Engine, requests: list[EngineRequest], at_once: int) -> dict[int, list[int]]:
    """The answers' ids; a new request comes whenever fewer than `at_once` are there."""
    found: dict[int, list[int]] = {request.id: [] for request in requests}
    waiting, present = list(requests), 0
    while waiting or engine.has_work:
        while waiting and present < at_once:
            engine.add_request(waiting.pop(0))
            present += 1
        for output in engine.step():
            assert output.error is None
            found[output.request_id] += output.token_ids
            assert len(output.logprobs) in (0, len(output.token_ids))
            present -= output.finish is not None
    return found


def test_answers_are_the_same_with_and_without_sharing_in_a_cache_too_small_for_all(make_engine: MakeEngine) -> None:
    requests = conversations(24)
    alone = answers(make_engine(n_cells=4096, share_prefixes=False), requests, 1)
    tight = make_engine(n_ctx=256, n_cells=512)
    decode, n_full = tight.context.decode, []

    def counting(batch: Batch, embeddings: np.ndarray | None = None) -> None:
        try:
            decode(batch, embeddings)
        except CacheFull:
            n_full.append(batch.count)
            raise

    tight.context.decode = counting  # type: ignore[method-assign]
    assert answers(tight, requests, 8) == alone
    assert answers(tight, requests[::-1], 5) == alone
    # The books are exact: llama.cpp never found fewer free cells than they say.
    assert n_full == []


def test_the_books_say_full_when_llama_cpp_does(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=256, n_cells=256, n_batch=256)
    requests = conversations(6)
    answers(engine, requests, 2)
    free = engine._scheduler.pool.n_free
    assert 0 < free < 256
    slot = next(s for s in range(engine.context.n_seq_max) if engine.context.last_position(s) < 0)
    batch = Batch(free + 1)
    batch.add([1] * (free + 1), 0, slot, 0)
    with pytest.raises(CacheFull):
        engine.context.decode(batch)
    batch.clear()
    batch.add([1] * free, 0, slot, 1)
    engine.context.decode(batch)
