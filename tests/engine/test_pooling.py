"""Vectors of whole texts against transformers: every pooling, texts alone and together, and beside answers."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from convert.hf_to_gguf import convert
from interns1_local.engine.engine import Engine, EngineOptions, EngineRequest
from interns1_local.engine.llama import Model
from interns1_local.engine.pooling import Pooler
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest
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


def texts(count: int) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(0, 250, size=int(n)).tolist() for n in random.integers(1, 60, size=count)]


def expected(checkpoint: Path, given: list[list[int]], pooling: str) -> np.ndarray:
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        states = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy() for ids in given]
    return np.stack([POOLINGS[pooling](state) for state in states])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings(checkpoint: Path, model_path: Path, tmp_path: Path, pooling: str) -> None:
    path = model_path
    if pooling:
        plan = plan_requantize(model_path, COPY)
        plan.fields["qwen3.pooling_type"] = NUMBERS[pooling]
        path = tmp_path / "pooled.gguf"
        write(plan, path, jobs=1)
    given = texts(40)
    model = Model(path, 0)
    pooler = Pooler(model, 128, 1)
    vectors = pooler.states(given)
    reference = expected(checkpoint, given, pooling)
    cosines = (vectors * reference).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosines.min() > 0.9999
    assert np.allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(reference, axis=1), rtol=1e-3)
    alone = np.concatenate([pooler.states([ids]) for ids in given[:5]])
    assert np.allclose(alone, vectors[:5], atol=2e-3)
    for wrong in ([], [1] * 129):
        with pytest.raises(BadRequest, match="cannot be pooled"):
            pooler.states([wrong])
    pooler.close()
    model.close()


def test_beside_answers(model_path: Path) -> None:
    """Pooling in another thread changes no answer, and no vector."""
    engine = Engine(model_path, None, EngineOptions(n_ctx=256, n_batch=128))
    requests = [EngineRequest(i, [70 + i] * 20, SamplingParams(temperature=0, ignore_eos=True), 40) for i in range(4)]
    alone = {i: ids(outputs) for i, outputs in run(engine, requests).items()}
    pooler = Pooler(engine.model, 256, 1)
    given = texts(30)
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
