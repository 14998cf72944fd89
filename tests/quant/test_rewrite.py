"""Copies of GGUF files with other keys and reordered tensors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from quant import rewrite as rewriting
from quant.errors import BadTensor, BrokenGGUF
from quant.gguf_file import read_metadata
from quant.rewrite import rewrite


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_array("list", ["a", "ü"])
    writer.add_uint32("old", 1)
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.arange(24, dtype=np.float32).reshape(4, 6))
    writer.add_tensor("b", np.arange(40, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_keys_and_rows(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_BLOCK", 10)  # blocks end inside rows
    rewrite(source, tmp_path / "out.gguf", {"old": 2, "new": "x"}, {"a": ((24, 96), (0, 24))})
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert (tensors["a"] == np.roll(np.arange(24).reshape(4, 6), -1, axis=0)).all()
    assert (tensors["b"] == np.arange(40)).all()
    fields = read_metadata(tmp_path / "out.gguf").fields
    assert {key: fields[key] for key in ("list", "old", "new")} == {"list": ["a", "ü"], "old": 2, "new": "x"}
    assert not list(tmp_path.glob(".*")), "nothing is left"


@pytest.mark.parametrize("ranges", [((0, 24),), ((0, 24), (0, 96)), ((24, 97), (0, 24)), ((0, 50), (60, 96))])
def test_every_byte_once(source: Path, tmp_path: Path, ranges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(BadTensor, match="Tensor a: the ranges"):
        rewrite(source, tmp_path / "out.gguf", {}, {"a": ranges})
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_damaged_source(source: Path, tmp_path: Path) -> None:
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(BrokenGGUF, match="truncated"):
        rewrite(source, tmp_path / "out.gguf", {})
    assert not (tmp_path / "out.gguf").exists()
