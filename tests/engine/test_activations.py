"""What the weights are multiplied with, against what transformers computes; and a ggml that is not the known one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interns1_local.engine.activations import ActivationObserver, PromptReader, weight_name
from interns1_local.engine.ggml_tensor import GGMLTensor, operations
from interns1_local.engine.llama import Aborted, Batch, Context, EngineError, Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.nano import CHECKPOINT
from interns1_local.nano.pictures import Thing, draw_things
from quant.imatrix import load, read_statistics
from quant.imatrix_collector import ImatrixCollector
from tests.nano.reference import Reference

CLOSE = 2e-3
TEXTS = (
    "What is 17 + 25? Please answer with the number alone, and do not explain how you found it.",
    "The molecule <SMILES>CC(=O)Oc1ccccc1C(=O)O</SMILES> is aspirin, <FASTA>MKTAYIAKQR</FASTA> is not.",
)
Sums = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def nano(nano_gguf: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    return nano_gguf("F32", "F32")


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(CHECKPOINT)


@pytest.fixture(scope="module")
def model(nano: tuple[Path, Path]) -> Iterator[Model]:
    model = Model(nano[0], ON_CPU)
    yield model
    model.close()


class ReferenceSums:
    """Sums of squares of the inputs of transformers' modules, under llama.cpp's names."""

    def __init__(self, reference: Reference) -> None:
        self._sums: Sums = {}
        self._model = reference.model
        layers = self._model.model.language_model.layers
        for index, layer in enumerate(layers):
            attention, block = layer.self_attn, layer.mlp
            for part, module in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
                module.register_forward_pre_hook(self._dense(f"blk.{index}.attn_{part}.weight"))
            attention.o_proj.register_forward_pre_hook(self._dense(f"blk.{index}.attn_output.weight"))
            block.gate.register_forward_pre_hook(self._dense(f"blk.{index}.ffn_gate_inp.weight"))
            block.experts.register_forward_pre_hook(self._experts(index))

    def of(self, prompts: list[tuple[list[int], torch.Tensor | None]]) -> Sums:
        self._sums.clear()
        with torch.no_grad():
            for ids, pixels in prompts:
                self._model(input_ids=torch.tensor([ids]), pixel_values=pixels)
        return dict(self._sums)

    def _add(self, name: str, matrix: int, of: int, rows: torch.Tensor) -> None:
        rows = rows.reshape(-1, rows.shape[-1]).double()
        sums, counts = self._sums.setdefault(name, (np.zeros((of, rows.shape[-1])), np.zeros(of)))
        sums[matrix] += rows.square().sum(0).numpy()
        counts[matrix] += len(rows)

    def _dense(self, name: str) -> Any:
        return lambda module, inputs: self._add(name, 0, 1, inputs[0])

    def _experts(self, layer: int) -> Any:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            rows, chosen = inputs[0], inputs[1]
            for expert in range(module.num_experts):
                taken = rows[(chosen == expert).any(-1)]
                gate, up = (taken @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
                for part, values in (("gate", taken), ("up", taken), ("down", torch.nn.functional.silu(gate) * up)):
                    self._add(f"blk.{layer}.ffn_{part}_exps.weight", expert, module.num_experts, values)

        return hook


def collect(
    model: Model, prompts: list[list[Any]], path: Path, vision: VisionEncoder | None = None, n_batch: int = 512
) -> tuple[Sums, ImatrixCollector]:
    collector = ImatrixCollector()
    reader = PromptReader(model, vision, collector.observe, n_ctx=512, n_batch=n_batch, n_threads=1)
    try:
        for prompt in prompts:
            reader.read(prompt)
    finally:
        reader.close()
    collector.save(path, 512)
    return read_statistics(path).entries, collector


def assert_close(ours: Sums, theirs: Sums) -> None:
    assert ours.keys() == theirs.keys()
    for name, (sums, counts) in theirs.items():
        assert np.array_equal(ours[name][1], counts), name
        scale = sums.max(axis=1, keepdims=True)
        np.testing.assert_allclose(ours[name][0], sums, rtol=CLOSE, atol=CLOSE * scale.max(), err_msg=name)
        assert np.abs(ours[name][0] - sums).sum() < CLOSE * sums.sum(), name


@pytest.mark.parametrize("n_batch", [512, 16])
def test_text_equals_the_reference(n_batch: int, model: Model, reference: Reference, tmp_path: Path) -> None:
    prompts = [reference.tokenizer.encode(text) for text in TEXTS]
    theirs = ReferenceSums(reference).of([(ids, None) for ids in prompts])
    ours, _ = collect(model, prompts, tmp_path / "i.gguf", n_batch=n_batch)
    assert_close(ours, theirs)


def test_pictures_equal_the_reference(
    nano: tuple[Path, Path], model: Model, reference: Reference, tmp_path: Path
) -> None:
    image = draw_things([Thing("red", "circle", "top left"), Thing("blue", "cross", "bottom")])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe this picture."}]}]
    ids, pixels = reference.prompt(messages, [image])
    theirs = ReferenceSums(reference).of([(ids, pixels)])
    vision = VisionEncoder(nano[1], model, n_threads=1, use_gpu=False)
    tile = Tile.of(np.asarray(image), vision.n_tokens(image.width))
    place = reference.config["image_token_id"]
    first = ids.index(place)
    prompt = [*ids[:first], tile, *(token for token in ids[first:] if token != place)]
    ours, _ = collect(model, [prompt], tmp_path / "i.gguf", vision)
    vision.close()
    assert_close(ours, theirs)


def test_experts_that_saw_nothing(model: Model, reference: Reference, tmp_path: Path) -> None:
    ids = reference.tokenizer.encode(TEXTS[0])[:2]
    theirs = ReferenceSums(reference).of([(ids, None)])
    ours, collector = collect(model, [ids], tmp_path / "i.gguf")
    assert_close(ours, theirs)
    expected = {(name, int(i)) for name, (_, counts) in theirs.items() for i in np.flatnonzero(counts == 0)}
    # Two tokens of two experts each leave at least four of eight alone in each layer.
    assert len(expected) >= 4 * 3 * 3
    assert set(collector.blind()) == expected
    found = load(tmp_path / "i.gguf")
    assert set(found.blind) == expected
    assert all((found.weights[name][expert] == 1).all() for name, expert in expected)


def test_an_error_of_the_sink_stops_the_decode(model: Model) -> None:
    calls: list[str] = []

    def sink(name: str, *_rest: Any) -> None:
        calls.append(name)
        if len(calls) == 3:
            raise RuntimeError("enough")

    reader = PromptReader(model, None, sink, n_ctx=64, n_batch=64, n_threads=1)
    with pytest.raises(RuntimeError, match="enough"):
        reader.read([1, 2, 3])
    assert len(calls) == 3
    # It can be used again afterwards, and stopped from outside.
    reader.read([1, 2, 3])
    seen = len(calls)
    assert seen > 20
    reader.abort()
    with pytest.raises(Aborted):
        reader.read([1, 2, 3])
    assert len(calls) == seen
    reader.close()


def test_a_tile_needs_a_vision_file(model: Model) -> None:
    reader = PromptReader(model, None, lambda *_: None, n_ctx=64, n_batch=64, n_threads=1)
    with pytest.raises(EngineError, match="vision file"):
        reader.read([1, Tile.of(np.zeros((4, 4, 3), np.uint8), 4)])
    reader.close()


def test_no_logits_change(model: Model) -> None:
    def logits(**options: Any) -> np.ndarray:
        context = Context(model, 64, 64, 1, 1, **options)
        batch = Batch(64)
        batch.add([1, 2, 3, 4], 0, 0, 1)
        context.decode(batch)
        found = context.logits(3).copy()
        context.close()
        return found

    watched = logits(observer=ActivationObserver(lambda *_: None))
    np.testing.assert_allclose(watched, logits(), rtol=1e-5, atol=1e-5)


def test_names() -> None:
    assert weight_name(b"blk.0.attn_k.weight") == "blk.0.attn_k.weight"
    assert weight_name(b"CUDA0#blk.0.attn_k.weight#0") == "blk.0.attn_k.weight"


def without(field: str) -> type[ctypes.Structure]:
    fields = [each for each in GGMLTensor._fields_ if each[0] != field]
    return type("Other", (ctypes.Structure,), {"_fields_": [*fields, (field, dict(GGMLTensor._fields_)[field])]})


@pytest.mark.parametrize("field", ["type", "buffer", "ne", "nb", "op", "op_params", "src", "view_src", "data"])
def test_another_layout_is_an_error(field: str) -> None:
    with pytest.raises(EngineError, match="tensors of another layout"):
        operations(without(field))


def test_a_larger_struct_is_an_error() -> None:
    larger = type("Larger", (ctypes.Structure,), {"_fields_": [*GGMLTensor._fields_, ("more", ctypes.c_char * 64)]})
    with pytest.raises(EngineError, match="takes less than"):
        operations(larger)
