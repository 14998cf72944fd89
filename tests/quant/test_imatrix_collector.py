"""Importance matrices that are made here: the sums, llama.cpp's file as others read it, merging, and mistakes."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from quant.errors import BadTensor, QuantError
from quant.imatrix import load, read_statistics
from quant.imatrix_collector import ImatrixCollector, check_model

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.standard_normal((20, 8)).astype(np.float32)
CHOSEN = np.array([[0, 2]] * 12 + [[2, 3]] * 8, np.int32)


def collected() -> ImatrixCollector:
    collector = ImatrixCollector()
    for start in (0, 5):
        part = slice(start, 5 if start == 0 else 20)
        collector.observe("blk.0.attn_q.weight", ROWS[part])
        collector.observe("blk.0.ffn_up_exps.weight", ROWS[part], CHOSEN[part], 4)
    collector.add_datasets(["words.txt", "drugs.smi"])
    return collector


def test_the_file_as_gguf_reads_it(tmp_path: Path) -> None:
    collected().save(tmp_path / "i.gguf", chunk_size=16)
    reader = gguf.GGUFReader(tmp_path / "i.gguf")

    def field(name: str) -> object:
        return reader.fields[name].contents()

    assert field("general.type") == "imatrix"
    assert field("imatrix.datasets") == ["words.txt", "drugs.smi"]
    assert (field("imatrix.chunk_count"), field("imatrix.chunk_size")) == (2, 16)
    types = [reader.fields[f"imatrix.chunk_{what}"].types[0].name for what in ("count", "size")]
    assert types == ["UINT32", "UINT32"]
    # ggml's order is innermost first; names are sorted.
    assert [(tensor.name, tensor.shape.tolist()) for tensor in reader.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", [8, 1]),
        ("blk.0.attn_q.weight.counts", [1, 1]),
        ("blk.0.ffn_up_exps.weight.in_sum2", [8, 4]),
        ("blk.0.ffn_up_exps.weight.counts", [1, 4]),
    ]
    data = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    squares = ROWS.astype(np.float64) ** 2
    np.testing.assert_allclose(data["blk.0.attn_q.weight.in_sum2"].reshape(1, 8)[0], squares.sum(0), rtol=1e-6)
    experts = [squares[:12], squares[:0], squares, squares[12:]]
    for expert, rows in enumerate(experts):
        found = data["blk.0.ffn_up_exps.weight.in_sum2"].reshape(4, 8)[expert]
        np.testing.assert_allclose(found, rows.sum(0), rtol=1e-6)
    assert data["blk.0.ffn_up_exps.weight.counts"].reshape(-1).tolist() == [12, 0, 20, 8]
    assert data["blk.0.attn_q.weight.counts"].reshape(-1).tolist() == [20]


def test_there_and_back(tmp_path: Path) -> None:
    collector = collected()
    collector.save(tmp_path / "i.gguf", 16)
    found = load(tmp_path / "i.gguf")
    assert (found.datasets, found.n_chunks) == (["words.txt", "drugs.smi"], 2)
    assert found.blind == collector.blind() == [("blk.0.ffn_up_exps.weight", 1)]
    np.testing.assert_allclose(found.weights["blk.0.attn_q.weight"][0], (ROWS**2).mean(0), rtol=1e-5)
    assert (found.weights["blk.0.ffn_up_exps.weight"][1] == 1).all()
    again = ImatrixCollector()
    again.merge(read_statistics(tmp_path / "i.gguf"))
    again.save(tmp_path / "again.gguf", 16)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "i.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["again.gguf", "i.gguf"]


def test_merging_is_observing_both(tmp_path: Path) -> None:
    other = ImatrixCollector()
    other.observe("blk.0.ffn_up_exps.weight", ROWS[:3], np.array([[1], [1], [0]], np.int32), 4)
    other.observe("blk.1.attn_q.weight", ROWS)
    other.add_datasets(["proteins.fasta"])
    other.save(tmp_path / "other.gguf", 16)
    collector = collected()
    collector.merge(read_statistics(tmp_path / "other.gguf"))
    assert collector.blind() == [] and len(collector) == 3
    collector.save(tmp_path / "both.gguf", 16)
    both = read_statistics(tmp_path / "both.gguf")
    assert both.datasets == ["words.txt", "drugs.smi", "proteins.fasta"]
    sums, counts = both.entries["blk.0.ffn_up_exps.weight"]
    assert counts.tolist() == [13, 2, 20, 8]
    np.testing.assert_allclose(sums[0], (ROWS[:12] ** 2).sum(0) + ROWS[2] ** 2, rtol=1e-5)


def test_a_file_of_another_model(tmp_path: Path) -> None:
    collected().save(tmp_path / "i.gguf", 16)
    statistics = read_statistics(tmp_path / "i.gguf")
    shapes = {"blk.0.attn_q.weight": (32, 8), "blk.0.ffn_up_exps.weight": (4, 16, 8)}
    check_model(statistics, shapes)
    with pytest.raises(BadTensor, match="does not have"):
        check_model(statistics, {"blk.0.attn_q.weight": (32, 8)})
    with pytest.raises(BadTensor, match=r"4 x 8 sums .* has 2 x 8 columns; it was made from another model"):
        check_model(statistics, {**shapes, "blk.0.ffn_up_exps.weight": (2, 16, 8)})
    collector = ImatrixCollector()
    collector.observe("blk.0.attn_q.weight", ROWS[:, :4])
    with pytest.raises(BadTensor, match=r"i.gguf cannot be merged: .* of the same model\?"):
        collector.merge(statistics)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    collector = ImatrixCollector()
    with pytest.raises(BadTensor, match="not finite"):
        collector.observe("w", np.full((1, 4), np.nan, np.float32))
    with pytest.raises(QuantError, match="Nothing was observed"):
        ImatrixCollector().save(tmp_path / "i.gguf", 16)
    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_stacked_matrices_with_one_count(tmp_path: Path) -> None:
    """A stack that every row passes whole has one count for all, in llama.cpp's files and so in ours."""
    collector = ImatrixCollector()
    collector.observe("blk.0.attn_k_b.weight", ROWS)
    collector.save(tmp_path / "i.gguf", 16)
    found = load(tmp_path / "i.gguf").for_tensor("blk.0.attn_k_b.weight", (2, 3, 4))
    assert found is not None
    np.testing.assert_allclose(found, (ROWS**2).mean(0).reshape(2, 4), rtol=1e-5)
