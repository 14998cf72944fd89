"""Streaming: bounded blocks, errors that name the tensor, and runs that stop early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant import stream
from quant.codec import dequantize_rows, quantize_rows
from quant.errors import BadTensor
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.stream import Piece, Progress, TensorStream, stream_tensors

COLUMNS = 256


def piece(rows: np.ndarray, reads: list[int] | None = None) -> Piece:
    def read(first: int, last: int) -> np.ndarray:
        if reads is not None:
            reads.append((last - first) * rows.shape[1])
        return rows[first:last]

    return Piece(len(rows), read)


@pytest.mark.parametrize("jobs", [1, 3])
def test_bytes_do_not_depend_on_blocks_or_threads(jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_VALUES", 3 * COLUMNS)
    rng = np.random.default_rng(0)
    experts = rng.standard_normal((4, 7, COLUMNS)).astype(np.float32)
    imatrix = rng.random((4, COLUMNS)).astype(np.float32)
    reads: list[int] = []
    seen: list[Progress] = []
    with create(tmp_path / "a.gguf", {}, [TensorSpec("w", experts.shape, "Q4_K")]) as out:
        pieces = [piece(expert, reads) for expert in experts]
        stream_tensors([TensorStream(out, "w", "Q4_K", COLUMNS, pieces, imatrix)], jobs=jobs, progress=seen.append)
    tensor = read_metadata(tmp_path / "a.gguf").tensors[0]
    data = (tmp_path / "a.gguf").read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes]
    expected = [quantize_rows(expert, "Q4_K", weights) for expert, weights in zip(experts, imatrix, strict=True)]
    assert data == b"".join(part.tobytes() for part in expected)
    assert sum(reads) == experts.size and max(reads) <= 3 * COLUMNS
    assert [p.bytes_done for p in seen] == sorted({p.bytes_done for p in seen})
    assert seen[-1] == Progress("write", 1, 1, tensor.n_bytes, tensor.n_bytes)
    assert dequantize_rows(np.frombuffer(data, np.uint8), "Q4_K", COLUMNS).shape == (28, COLUMNS)


def test_an_error_names_the_tensor_and_leaves_nothing(tmp_path: Path) -> None:
    rows = np.zeros((4, COLUMNS), np.float32)
    rows[2, 0] = np.nan
    specs = [TensorSpec("good", (4, COLUMNS), "F32"), TensorSpec("bad", (4, COLUMNS), "Q8_0")]
    with pytest.raises(BadTensor, match="Tensor bad"), create(tmp_path / "a.gguf", {}, specs) as out:
        stream_tensors(
            [TensorStream(out, "good", "F32", COLUMNS, [piece(np.ones_like(rows))]),
             TensorStream(out, "bad", "Q8_0", COLUMNS, [piece(rows)])], jobs=2,
        )  # fmt: skip
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob(".*partial"))


def test_the_progress_callback_can_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_VALUES", COLUMNS)
    reads: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.bytes_done:
            raise KeyboardInterrupt

    rows = np.zeros((10000, COLUMNS), np.float32)
    with pytest.raises(KeyboardInterrupt), create(tmp_path / "a.gguf", {}, [TensorSpec("w", rows.shape, "F32")]) as out:
        stream_tensors([TensorStream(out, "w", "F32", COLUMNS, [piece(rows, reads)])], jobs=2, progress=stop)
    assert len(reads) < 10000
    assert not list(tmp_path.glob("*.gguf"))
