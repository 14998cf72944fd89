"""Importance matrices: llama.cpp's format, and the bytes that llama.cpp's quantizer makes with the same one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from quant.errors import BadTensor, BrokenGGUF, OutputError
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.imatrix import load
from quant.recipes import RECIPES
from quant.requantize import requantize
from tests.tiny import quiet_llama_cpp, tiny_interns1

HEADER = {
    "general.type": "imatrix",
    "imatrix.datasets": ["words.txt"],
    "imatrix.chunk_count": 3,
    "imatrix.chunk_size": 8,
}
Entries = dict[str, tuple[np.ndarray, np.ndarray]]  # sums, counts


def write_imatrix(path: Path, entries: Entries, header: dict[str, Any] = HEADER) -> Path:
    arrays = {}
    for name, (sums, counts) in entries.items():
        arrays |= {f"{name}.in_sum2": sums, f"{name}.counts": counts.reshape(-1, 1)}
    specs = [TensorSpec(name, value.shape, "F32") for name, value in arrays.items()]
    with create(path, header, specs) as out:
        for name, value in arrays.items():
            out.write(name, 0, value.astype(np.float32).tobytes())
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, model.gguf (F32) and imatrix.gguf; expert 5 of the second layer saw nothing."""
    folder = tmp_path_factory.mktemp("imatrix")
    checkpoint = tiny_interns1(folder / "checkpoint", vision=False, dtype="F32")
    convert(checkpoint, folder / "model.gguf", type="F32", jobs=1)
    random = np.random.default_rng(0)
    entries: Entries = {}
    for tensor in read_metadata(folder / "model.gguf").tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1 and "inp" not in tensor.name:
            matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
            counts = np.full(matrices, 7.0, np.float32)
            if tensor.name == "blk.1.ffn_up_exps.weight":
                counts[5] = 0
            entries[tensor.name] = (random.random((matrices, tensor.shape[-1])).astype(np.float32) * 9, counts)
    write_imatrix(folder / "imatrix.gguf", entries)
    return folder


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    return {t.name: (t.type, data[t.offset : t.offset + t.n_bytes]) for t in read_metadata(path).tensors}


def llama_quantize(folder: Path, type: str, output: Path) -> None:
    api = quiet_llama_cpp()
    weights = load(folder / "imatrix.gguf").weights
    entries = (api.llama_model_imatrix_data * (len(weights) + 1))()
    for entry, (name, values) in zip(entries, weights.items(), strict=False):
        entry.name, entry.size = name.encode(), values.size
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.imatrix = RECIPES[type].file_type, 1, entries
    assert api.llama_model_quantize(str(folder / "model.gguf").encode(), str(output).encode(), params) == 0


def test_load(made: Path) -> None:
    found = load(made / "imatrix.gguf")
    assert (found.datasets, found.n_chunks) == (["words.txt"], 3)
    assert found.blind == [("blk.1.ffn_up_exps.weight", 5)]
    experts = found.for_tensor("blk.1.ffn_up_exps.weight", (8, 256, 256))
    assert experts is not None and experts.shape == (8, 256) and (experts[5] == 1).all() and experts[4].max() < 1.3
    queries = found.for_tensor("blk.0.attn_q.weight", (256, 256))
    assert queries is not None and queries.shape == (256,)
    assert found.for_tensor("output.weight", (512, 256)) is None


@pytest.mark.parametrize("type", ["Q4_K_M", "Q2_K_S", "IQ2_XS", "Q4_0"])
def test_equals_llama_cpp(type: str, made: Path, tmp_path: Path) -> None:
    llama_quantize(made, type, tmp_path / "theirs.gguf")
    requantize(made / "model.gguf", tmp_path / "ours.gguf", type, imatrix=made / "imatrix.gguf", jobs=1)
    assert tensors_of(tmp_path / "ours.gguf") == tensors_of(tmp_path / "theirs.gguf")


def test_a_conversion_takes_it_too(made: Path, tmp_path: Path) -> None:
    requantize(made / "model.gguf", tmp_path / "two.gguf", "Q4_K_M", imatrix=made / "imatrix.gguf", jobs=1)
    convert(made / "checkpoint", tmp_path / "one.gguf", type="Q4_K_M", imatrix=made / "imatrix.gguf", jobs=1)
    assert tensors_of(tmp_path / "one.gguf") == tensors_of(tmp_path / "two.gguf")
    fields = read_metadata(tmp_path / "one.gguf").fields
    assert fields["quantize.imatrix.file"] == "imatrix.gguf" and fields["quantize.imatrix.dataset"] == "words.txt"
    assert (fields["quantize.imatrix.entries_count"], fields["quantize.imatrix.chunks_count"]) == (14, 3)


GOOD = (np.ones((1, 256), np.float32), np.ones(1, np.float32))


@pytest.mark.parametrize(
    ("entries", "header", "message"),
    [
        ({"w": GOOD}, {"general.type": "model"}, "is not an importance matrix"),
        ({}, HEADER, "has no entries"),
        ({"w": (GOOD[0], np.ones(2))}, HEADER, "1 matrices and 2 counts"),
        ({"w": (-GOOD[0], GOOD[1])}, HEADER, "negative"),
        ({"w": (np.nan * GOOD[0], GOOD[1])}, HEADER, "NaN"),
    ],
)
def test_files_that_are_wrong(entries: Entries, header: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenGGUF, match=message):
        load(write_imatrix(tmp_path / "i.gguf", entries, header))


def only(*names: str) -> Callable[[Path], Entries]:
    return lambda folder: {name: GOOD for name in names}


@pytest.mark.parametrize(
    ("entries", "type", "message"),
    [
        (only("blk.0.attn_q.weight"), "IQ2_XS", "has no weights for tensor"),
        (only("blk.0.ffn_up_exps.weight"), "Q4_K_M", "made from another model"),
    ],
)
def test_matrices_that_do_not_fit(
    entries: Callable[[Path], Entries], type: str, message: str, made: Path, tmp_path: Path
) -> None:
    path = write_imatrix(tmp_path / "i.gguf", entries(made))
    with pytest.raises(BadTensor, match=message):
        requantize(made / "model.gguf", tmp_path / "out.gguf", type, imatrix=path)
    with pytest.raises(BadTensor, match=message):
        convert(made / "checkpoint", tmp_path / "out.gguf", type=type, imatrix=path)
    assert not (tmp_path / "out.gguf").exists()
    with pytest.raises((OutputError, OSError)):
        requantize(made / "model.gguf", tmp_path / "out.gguf", "Q4_K_M", imatrix=tmp_path / "none.gguf")
