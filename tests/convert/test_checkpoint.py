"""Reading checkpoints: rows by range, and damage that is reported before anything is converted."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from tests.safetensors_files import encode, write_safetensors, write_shards

VALUES = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)


def folder_with(path: Path, dtype: str = "F32") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    tensors = {"a": encode(VALUES, dtype), "b": encode(VALUES[0], dtype), "c": encode(VALUES[0, 0], dtype)}
    write_shards(path, tensors, 2)
    return path


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F8_E4M3"])
def test_rows_by_range(dtype: str, tmp_path: Path) -> None:
    expected = VALUES.reshape(6, 4)
    with Checkpoint(folder_with(tmp_path, dtype)) as checkpoint:
        entry = checkpoint.entry("a")
        assert (entry.n_rows, entry.columns) == (6, 4)
        rows = checkpoint.read_rows(entry, 1, 5)
        assert rows.dtype == np.float32
        assert np.allclose(rows, expected[1:5], atol={"F32": 0, "F16": 1e-3, "BF16": 1e-2, "F8_E4M3": 0.13}[dtype])
        assert checkpoint.read_rows(checkpoint.entry("c"), 0, 1).shape == (1, 4)


def edit_header(path: Path, edit: Callable[[dict], None]) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def overlap(folder: Path) -> None:
    edit_header(folder / FIRST, lambda header: header["c"].update(data_offsets=[80, 96]))


def wrong_size(folder: Path) -> None:
    edit_header(folder / FIRST, lambda header: header["a"].update(shape=[2, 3, 5]))


def unknown_dtype(folder: Path) -> None:
    edit_header(folder / FIRST, lambda header: header["a"].update(dtype="Q4"))


def negative(folder: Path) -> None:
    edit_header(folder / FIRST, lambda header: header["a"].update(data_offsets=[-96, 0]))


def truncated(folder: Path) -> None:
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:-1])


def no_shard(folder: Path) -> None:
    (folder / SECOND).unlink()


def no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def bad_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[]")


def index_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')


def index_wrong(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"b"', '"d"'))


def twice(folder: Path) -> None:
    write_safetensors(folder / SECOND, {"a": encode(VALUES, "F32"), "b": encode(VALUES[0], "F32")})


def not_safetensors(folder: Path) -> None:
    (folder / FIRST).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def damaged_header(folder: Path) -> None:
    (folder / FIRST).write_bytes(struct.pack("<Q", 4) + b"{{{{" + bytes(9))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overlap, f"Tensors a and c in .*{FIRST} overlap"),
        (wrong_size, f"Tensor a in .*{FIRST}: F32 .2, 3, 5. takes 120 bytes; the header gives it 96"),
        (unknown_dtype, f"Tensor a in .*{FIRST} has the unknown dtype 'Q4'"),
        (negative, "Tensor a .*not counts"),
        (truncated, f"{FIRST} is truncated: tensor c ends"),
        (no_shard, f"Shard {SECOND} is missing"),
        (no_index, "no model.safetensors.index.json; download the index"),
        (bad_index, "not a shard index"),
        (index_outside, "outside the folder"),
        (index_wrong, f"Tensor d is not in .*{SECOND}"),
        (twice, f"Tensor a is in {FIRST} and again in {SECOND}"),
        (not_safetensors, f"{FIRST} is not a safetensors file"),
        (damaged_header, f"{FIRST} has a damaged header"),
        (no_config, "no config.json"),
        (bad_config, "config.json is not valid JSON"),
    ],
)
def test_damage(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "checkpoint")
    damage(folder)
    with pytest.raises(BrokenCheckpoint, match=message):
        Checkpoint(folder)


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpoint, match="not a folder"):
        Checkpoint(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BrokenCheckpoint, match=r"no model.safetensors and no"):
        Checkpoint(tmp_path)
    with (
        Checkpoint(folder_with(tmp_path / "good")) as checkpoint,
        pytest.raises(BrokenCheckpoint, match="x is missing"),
    ):
        checkpoint.entry("x")


def test_a_dtype_that_no_weight_has(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    edit_header(folder / FIRST, lambda header: header["a"].update(dtype="I32"))
    with Checkpoint(folder) as checkpoint, pytest.raises(BrokenCheckpoint, match=r"Tensor a in .* has dtype I32; only"):
        checkpoint.entry("a")
