"""Vectors of whole texts against transformers: every pooling, texts alone and together, and beside answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from convert.hf_to_gguf import convert
from interns1_local.engine.engine import Engine, EngineOptions, EngineRequest
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.pooling import TOKENS_AT_ONCE, Pooler
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest, Unsupported
from quant.requantize import COPY, plan_requantize, write
from tests.engine.test_engine import ids, run
from tests.tiny import tiny_qwen3

POOLINGS = {"": lambda states: states[-1], "mean": lambda states: states.mean(0), "cls": lambda states: states[0],
            "last": lambda states: states[-1]}  # fmt: skip
NUMBERS = {"mean": 1, "cls": 2, "last": 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen3(tmp_path_factory.mktemp("pooling") / "tiny", moe=False)


@pytest.fixture(scope="module")
def model_path(checkpoint: Path) -> Path:
    path = checkpoint.parent / "model.gguf"
    convert(checkpoint, path, type="F32", jobs=1)
    return path


def with_fields(path: Path, output: Path, **fields: Any) -> Path:
    """The same model with other metadata; `__` in a name stands for a point."""
    plan = plan_requantize(path, COPY)
    plan.fields.update({f"qwen3.{name.replace('__', '.')}": value for name, value in fields.items()})
    write(plan, output, jobs=1)
    return output


def texts(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(0, 250, size=n).tolist() for n in lengths]


def many(count: int) -> list[list[int]]:
    return texts(*np.random.default_rng(6).integers(1, 60, size=count).tolist())


def expected(checkpoint: Path, given: list[list[int]], pooling: str, causal: bool = True) -> np.ndarray:
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    rows = []
    for text in given:
        # A mask of four dimensions is taken as it is: what is added to the scores.
        mask = None if causal else torch.zeros(1, 1, len(text), len(text))
        with torch.no_grad():
            states = model(input_ids=torch.tensor([text]), attention_mask=mask).last_hidden_state[0].numpy()
        rows.append(POOLINGS[pooling](states))
    return np.stack(rows)


def cosines(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return np.asarray((vectors * reference).sum(1) / lengths)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(checkpoint: Path, model_path: Path, tmp_path: Path, pooling: str) -> None:
    """Short texts together, and long ones, which take several calls each."""
    path = model_path
    if pooling:
        path = with_fields(model_path, tmp_path / "pooled.gguf", pooling_type=NUMBERS[pooling])
    given = [*many(20), *texts(TOKENS_AT_ONCE, TOKENS_AT_ONCE + 1, 3 * TOKENS_AT_ONCE + 7), *many(20)]
    model = Model(path, ON_CPU)
    pooler = Pooler(model, 1024, 1)
    vectors = pooler.states(given)
    reference = expected(checkpoint, given, pooling)
    assert cosines(vectors, reference).min() > 0.9999
    assert np.allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(reference, axis=1), rtol=1e-3)
    alone = np.concatenate([pooler.states([ids]) for ids in given[18:24]])
    assert np.allclose(alone, vectors[18:24], atol=2e-3)
    for wrong in ([], [1] * 1025):
        with pytest.raises(BadRequest, match="cannot be pooled"):
            pooler.states([wrong])
    with pytest.raises(BadRequest, match="token id 999999 is not in the vocabulary"):
        pooler.states([[1], [999999]])
    assert pooler.states([]).shape == (0, vectors.shape[1])
    pooler.close()
    model.close()


def test_the_context_grows_with_the_texts(checkpoint: Path, model_path: Path) -> None:
    given = texts(40, 1500, 2500, 60)
    model = Model(model_path, ON_CPU)
    pooler = Pooler(model, 4096, 1)
    vectors = np.concatenate([pooler.states([text]) for text in given])
    assert cosines(vectors, expected(checkpoint, given, "last")).min() > 0.9999
    pooler.close()
    model.close()


def test_tokens_that_look_ahead(checkpoint: Path, model_path: Path, tmp_path: Path) -> None:
    """Such a text is never cut, as its first tokens depend on its last."""
    path = with_fields(model_path, tmp_path / "ahead.gguf", pooling_type=1, attention__causal=False)
    given = texts(5, TOKENS_AT_ONCE + 50)
    model = Model(path, ON_CPU)
    pooler = Pooler(model, 1024, 1)
    vectors = pooler.states(given)
    assert cosines(vectors, expected(checkpoint, given, "mean", causal=False)).min() > 0.9999
    assert cosines(vectors, expected(checkpoint, given, "mean")).max() < 0.9999
    pooler.close()
    model.close()


@pytest.mark.parametrize("number", [4, 77])
def test_other_poolings_are_refused(model_path: Path, tmp_path: Path, number: int) -> None:
    model = Model(with_fields(model_path, tmp_path / "rank.gguf", pooling_type=number), ON_CPU)
    with pytest.raises(Unsupported, match=f"pooling_type is {number}"):
        Pooler(model, 128, 1)
    model.close()


def test_beside_answers(model_path: Path) -> None:
    """Pooling in another thread changes no answer, and no vector."""
    engine = Engine(model_path, None, EngineOptions(n_ctx=256, n_batch=128))
    requests = [EngineRequest(i, [70 + i] * 20, SamplingParams(temperature=0, ignore_eos=True), 40) for i in range(4)]
    alone = {i: ids(outputs) for i, outputs in run(engine, requests).items()}
    pooler = Pooler(engine.model, 256, 1)
    given = many(30)
    quiet = pooler.states(given)
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.extend(pooler.states(given) for _ in range(3)))
    thread.start()
    busy = {i: ids(outputs) for i, outputs in run(engine, requests).items()}
    thread.join()
    assert busy == alone
    assert all(np.allclose(vectors, quiet, atol=1e-4) for vectors in found)
    pooler.close()
    engine.close()
