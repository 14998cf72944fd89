"""Files of the stock converter on a real server: with the checkpoint's small files they answer as our own do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.nano import CHECKPOINT
from interns1_local.nano.pictures import png
from interns1_local.runners.vision_file import fitting_vision_file
from interns1_local.store.sidecars import SIDECARS
from tests.nano.conftest import Converted
from tests.nano.evaluate import exam
from tests.nano.reference import Reference, with_images
from tests.nano.stock_llama import cosines
from tests.nano.test_logits import CLOSE, our_tiles, picture_embeddings
from tests.stock_files import stock_mmproj, stock_model

FAMILIES = ("name_to_smiles", "smiles_to_name", "pictures", "tiles")
EXACT = {"temperature": 0, "num_predict": 120}


@pytest.fixture(scope="module")
def published(nano_gguf: Callable[..., Converted], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("published")
    model, mmproj = nano_gguf("F32", "F32")
    return [stock_model(model, folder / "nano.gguf"), stock_mmproj(mmproj, folder / "mmproj.gguf")]


def uploaded(client: ollama.Client, name: str, files: list[Path]) -> list[str]:
    digests = {path.name: client.create_blob(path) for path in files}
    return [step.status or "" for step in client.create(model=name, files=digests, stream=True)]


def answers(client: ollama.Client, model: str) -> list[Any]:
    found: list[Any] = []
    for family in FAMILIES:
        sample = exam(family, 1)[0]
        messages = [dict(message) for message in sample.messages]
        if sample.images:
            messages[-1]["images"] = [png(image) for image in sample.images]
        answer = client.chat(model, messages, think=True, options=EXACT)
        found.append((answer.message.content, answer.message.thinking, answer.prompt_eval_count, answer.eval_count))
    return found


def shown(server: str, model: str) -> dict[str, Any]:
    return dict(httpx.post(f"{server}/api/show", json={"model": model, "verbose": True}).json())


def test_with_the_small_files(
    server: str, client: ollama.Client, published: list[Path], served: Callable[[str], str]
) -> None:
    steps = uploaded(client, "published", [*published, *(p for p in CHECKPOINT.iterdir() if p.name in SIDECARS)])
    assert any(step.startswith("found ") for step in steps) and any("repairing" in step for step in steps)
    ours = served("F32")
    assert answers(client, "published") == answers(client, ours)
    mine, theirs = shown(server, "published"), shown(server, ours)
    assert "warnings" not in mine
    for facts in (mine, theirs):  # the converters' views of what a control token is; the added tokens say it
        facts["model_info"].pop("tokenizer.ggml.token_type")
    for key in ("capabilities", "template", "model_info"):
        assert mine[key] == theirs[key], key
    assert mine["projector_info"].items() >= theirs["projector_info"].items()
    again = re.findall("(?m)^FROM (.*)$", mine["modelfile"])
    assert len(again) == 3, "the Modelfile makes the whole model again"


def test_without_them(server: str, client: ollama.Client, published: list[Path]) -> None:
    steps = uploaded(client, "bare", published)
    assert any(step.startswith("warning: the file has no science vocabularies") for step in steps)
    assert client.chat("bare", [{"role": "user", "content": "Hello"}], options=EXACT).message.content is not None
    [warning] = shown(server, "bare")["warnings"]
    assert "molecules" in warning and "tokenizer_SMILES.model" in warning


@pytest.mark.parametrize("family", ["pictures", "tiles"])
def test_what_a_stock_vision_file_sees(
    family: str, reference: Reference, published: list[Path], nano_gguf: Callable[..., Converted], tmp_path: Path
) -> None:
    """Repaired at opening it sees what the reference sees; as it is it does not."""
    sample = exam(family, 1)[0]
    _, pixels = reference.prompt(with_images(sample.messages, 1), sample.images)
    theirs = reference.image_embeddings(pixels).flatten(0, 1).numpy()
    with fitting_vision_file(published[1], tmp_path) as repaired:
        assert repaired is not None
        close = [
            similarity(path, nano_gguf("F32", "F32")[0], our_tiles(sample), theirs) for path in (repaired, published[1])
        ]
    assert close[0] > CLOSE > close[1]


def similarity(mmproj: Path, model_path: Path, tiles: np.ndarray, theirs: np.ndarray) -> float:
    model = Model(model_path, ON_CPU)
    encoder = VisionEncoder(mmproj, model, n_threads=1, use_gpu=False)
    try:
        return float(cosines(picture_embeddings(encoder, tiles), theirs).min())
    finally:
        encoder.close()
        model.close()
