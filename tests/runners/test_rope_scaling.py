"""Contexts past the trained one: the rotary base of the reference at that length, in the worker's answers too."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from convert.hf_to_gguf import convert
from interns1_local.config import Settings
from interns1_local.engine.sampling import SamplingParams
from interns1_local.reference.checkpoint import Reference
from interns1_local.runners.devices import Machine
from interns1_local.runners.memory import plan_load
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.model_spec import LoadOptions, ModelSpec, fit_context, read_model_facts
from interns1_local.runners.protocol import GenerateRequest
from interns1_local.runners.rope_scaling import DynamicRope
from tests.tiny_internlm import CONTEXT, tiny_internlm2, tiny_internlm3

LONG = 4 * CONTEXT
PROMPT = [1, *((7 * i * i + 3 * i) % 250 + 30 for i in range(3 * CONTEXT))]
METADATA = {
    "a.context_length": 1024,
    "a.rope.freq_base": 10000.0,
    "a.rope.dimension_count": 64,
    "interns1.rope.dynamic.factor": 2.0,
    "interns1.rope.dynamic.freq_base": 10000.0,
    "interns1.rope.dynamic.context_length": 1024,
}


@pytest.fixture(scope="module", params=[tiny_internlm2, tiny_internlm3], ids=["InternLM2", "InternLM3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and its model.gguf in F32."""
    made: Path = request.param(tmp_path_factory.mktemp("rope") / "checkpoint")
    convert(made, made / "model.gguf", type="F32", jobs=1)
    return made


@pytest.mark.parametrize("length", [1024, 1025, 4096, 65536])
@pytest.mark.parametrize("factor", [1.0, 2.0, 6.0])
def test_the_base_is_that_of_transformers(length: int, factor: float) -> None:
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "dynamic", "factor": factor, "rope_theta": 10000.0},
    )
    expected, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=length)
    rope = DynamicRope.of({**METADATA, "interns1.rope.dynamic.factor": factor}, "a")
    assert rope is not None
    ours = rope.base_for(length) ** (-np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("num_ctx", [CONTEXT, LONG])
def test_answers_are_the_references(num_ctx: int, folder: Path) -> None:
    prompt = PROMPT[: num_ctx - 8]
    assert (len(prompt) > CONTEXT) == (num_ctx == LONG)

    spec = ModelSpec("tiny", "sha256:0", folder / "model.gguf")

    async def answer() -> Any:
        scheduler = ModelScheduler(Settings(threads=1), lambda name: spec)
        options = {"num_ctx": num_ctx, "kv_cache_type": "f32"}
        request = GenerateRequest(prompt, SamplingParams(temperature=0, logprobs=5), 1)
        try:
            async with scheduler.acquire("tiny", options) as lease:
                assert lease.runner.context_length == num_ctx
                return [chunk async for chunks in lease.runner.generate(request) for chunk in chunks]
        finally:
            await scheduler.close()

    chosen = asyncio.run(answer())[0].logprobs[0]

    def expected(context_length: int | None) -> np.ndarray:
        logits = Reference(folder, dtype="float32", vision=False, context_length=context_length).logits(prompt)[-1]
        return np.asarray(logits - np.logaddexp.reduce(logits))

    right = expected(num_ctx)
    assert chosen.id == int(right.argmax())
    difference = max(abs(entry.logprob - right[entry.id]) for entry in chosen.top)
    assert difference < 1e-3
    if num_ctx == LONG:
        plain = expected(None)
        assert max(abs(entry.logprob - plain[entry.id]) for entry in chosen.top) > 20 * difference


def test_only_who_asks_for_it_gets_a_longer_context(folder: Path) -> None:
    facts = read_model_facts(folder / "model.gguf")
    assert facts.dynamic_rope is not None
    base = facts.dynamic_rope.freq_base
    asked = fit_context(LoadOptions(num_ctx=LONG), facts)
    assert asked.num_ctx == LONG and asked.rope_freq_base is not None and asked.rope_freq_base > base
    # A default is no wish.
    machine = Machine(memory_total=2**34, memory_free=2**34)
    default = plan_load(LoadOptions(), facts, Settings(context_length=LONG, threads=1), machine).options
    assert (default.num_ctx, default.rope_freq_base) == (CONTEXT, base)
    # Short texts are computed as the reference does, so a worker with another base does not serve them.
    stretched = plan_load(asked, facts, Settings(threads=1), machine).options
    assert stretched.satisfies(asked)
    assert not stretched.satisfies(fit_context(LoadOptions(), facts))
    assert not default.satisfies(asked)
    # It is no option of a request.
    assert LoadOptions.from_options({"rope_freq_base": 5.0}) == LoadOptions()
    # Models without dynamic scaling end where their training did.
    plain = replace(facts, dynamic_rope=None)
    assert fit_context(LoadOptions(num_ctx=LONG), plain) == LoadOptions(num_ctx=CONTEXT)


def test_a_file_that_was_converted_for_a_longer_context(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "long.gguf", type="F32", context_length=2 * CONTEXT, jobs=1)
    rope, whole = (read_model_facts(path).dynamic_rope for path in (tmp_path / "long.gguf", folder / "model.gguf"))
    assert rope is not None and whole is not None
    assert rope.base_for(CONTEXT) == rope.base_for(2 * CONTEXT) == pytest.approx(whole.base_for(2 * CONTEXT))
    assert whole.base_for(LONG) > rope.base_for(None)
    assert rope.base_for(LONG) == pytest.approx(whole.base_for(LONG))


@pytest.mark.parametrize(
    "change",
    [
        {"interns1.rope.dynamic.factor": None},
        {"interns1.rope.dynamic.factor": float("nan")},
        {"interns1.rope.dynamic.factor": -2.0},
        {"interns1.rope.dynamic.freq_base": float("inf")},
        {"interns1.rope.dynamic.freq_base": "many"},
        {"interns1.rope.dynamic.context_length": 0},
        {"interns1.rope.dynamic.context_length": 2048},
        {"interns1.rope.dynamic.context_length": [1]},
        {"a.rope.dimension_count": 2},
        {"a.rope.freq_base": "x"},
        {"a.context_length": float("inf")},
    ],
)
def test_keys_that_make_no_sense_are_left_alone(change: dict[str, Any]) -> None:
    assert DynamicRope.of(METADATA, "a") is not None
    values = {key: value for key, value in {**METADATA, **change}.items() if value is not None}
    assert DynamicRope.of(values, "a") is None
