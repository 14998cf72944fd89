"""GGUF files: exact bytes, read back by the gguf package, hostile files, and outputs that stop half-way."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quant.errors import BadTensor, BrokenGGUF, OutputError, QuantError
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.gguf_values import INT32, Typed

FIELDS: dict[str, Any] = {"general.architecture": "x", "x.block_count": 7, "x.eps": 0.5, "x.one": True}
GOLDEN = bytes.fromhex(
    "47475546" "03000000" "0100000000000000" "0400000000000000"
    "1400000000000000" + b"general.architecture".hex() + "08000000" "0100000000000000" "78"
    "0d00000000000000" + b"x.block_count".hex() + "04000000" "07000000"
    "0500000000000000" + b"x.eps".hex() + "06000000" "0000003f"
    "0500000000000000" + b"x.one".hex() + "07000000" "01"
    "0800000000000000" + b"a.weight".hex() + "02000000" "2000000000000000" "0200000000000000"
    "08000000" "0000000000000000"
)  # fmt: skip


def write(path: Path, fields: dict[str, Any], tensors: dict[str, tuple[str, np.ndarray]]) -> Path:
    specs = [TensorSpec(name, tuple(value.shape), type) for name, (type, value) in tensors.items()]
    with create(path, fields, specs) as out:
        for name, (_, value) in tensors.items():
            out.write(name, 0, value.tobytes())
    return path


def test_golden_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    data = bytes(range(68))
    with create(path, FIELDS, [TensorSpec("a.weight", (2, 32), "Q8_0")]) as out:
        out.write("a.weight", 34, data[34:])
        out.write("a.weight", 0, data[:34])
    padding = bytes(-len(GOLDEN) % 32)
    assert path.read_bytes() == GOLDEN + padding + data + bytes(28)


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    fields = {
        **FIELDS,
        "x.names": ["α", "", "b"],
        "x.bytes": np.arange(5, dtype=np.uint8),
        "x.types": np.array([1, -1], np.int32),
        "x.big": 1 << 40,
        "x.minus": -3,
        "x.k": Typed(INT32, 40),
    }
    weight = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    path = write(tmp_path / "a.gguf", fields, {"w": ("F32", weight), "v": ("F32", weight[0, 0])})
    theirs = gguf.GGUFReader(path)
    assert theirs.get_field("x.names").contents() == ["α", "", "b"]
    assert theirs.get_field("x.bytes").contents() == [0, 1, 2, 3, 4]
    assert theirs.get_field("x.big").contents() == 1 << 40
    assert [kind.name for kind in theirs.get_field("x.k").types] == ["INT32"]
    assert np.array_equal(theirs.tensors[0].data, weight)
    ours = read_metadata(path)
    assert ours.architecture == "x"
    assert {key: ours.fields[key] for key in fields if not isinstance(fields[key], np.ndarray | Typed)} == {
        key: value for key, value in fields.items() if not isinstance(value, np.ndarray | Typed)
    }
    assert np.array_equal(ours.fields["x.bytes"], fields["x.bytes"])
    found = [(t.name, t.shape, t.type, t.n_bytes) for t in ours.tensors]
    assert found == [("w", (2, 2, 3), "F32", 48), ("v", (3,), "F32", 12)]
    assert ours.tensors[0].offset == theirs.tensors[0].data_offset
    without = read_metadata(path, arrays=False)
    assert without.fields["x.names"] is None and without.tensors == ours.tensors


def test_strings_of_an_array_that_are_decoded_when_they_are_asked_for(tmp_path: Path) -> None:
    inside = struct.pack("<Q", 1) + b"q"
    names = ["α", "", "a longer one", inside, b"\xff", "last"]
    path = write(
        tmp_path / "a.gguf", {**FIELDS, "x.names": names, "x.none": []}, {"w": ("F32", np.ones(8, np.float32))}
    )
    whole, lazy = (read_metadata(path, lazy=lazy).fields["x.names"] for lazy in (False, True))
    assert isinstance(whole, list) and lazy == whole and list(lazy) == whole and len(lazy) == 6
    assert (
        [lazy[place] for place in range(-6, 6)] == whole * 2 and lazy[1:5:2] == whole[1:5:2] and lazy[-2:] == whole[-2:]
    )
    assert all(name in lazy and lazy.index(name) == place for place, name in enumerate(whole))
    absent = ("q", "longer", "a longer", "las", "\ud800", 5, None)
    assert not any(name in lazy for name in absent) and lazy != whole[1:]
    with pytest.raises(IndexError):
        lazy[6]


@pytest.mark.parametrize("seed", range(8))
def test_strings_of_all_lengths_are_found(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Short ones are found many at a time; not so long ones, empty ones, and those that hold zeros or whole strings.
    odd: list[bytes] = [b"", bytes(1), bytes(9), b"x" * 255, b"y" * 256, b"z" * 70_000, struct.pack("<Q", 3) + b"abc"]
    count, share = int(random.integers(1, 9000)), random.choice([0, 0.001, 0.2, 1])
    picked = random.random(count) < share
    plain = [bytes(random.integers(1, 256, int(random.integers(1, 20)), np.uint8)) for _ in range(50)]
    names = [odd[place % 7] if rare else plain[place % 50] for place, rare in enumerate(picked)]
    names = [name.decode("utf-8", "surrogateescape") for name in names]
    path = write(tmp_path / "a.gguf", {**FIELDS, "x.names": names, "x.next": 7}, {"w": ("F32", np.ones(8, np.float32))})
    for lazy in (False, True):
        found = read_metadata(path, lazy=lazy).fields
        assert list(found["x.names"]) == names and found["x.next"] == 7


def test_no_file_may_crash_the_reader(tmp_path: Path) -> None:
    fields = {**FIELDS, "x.names": ["a", "bc"], "x.bytes": np.arange(5, dtype=np.uint8)}
    good = write(tmp_path / "good.gguf", fields, {"w": ("F32", np.ones((2, 8), np.float32))}).read_bytes()
    path = tmp_path / "bad.gguf"
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(BrokenGGUF):
            read_metadata(path)
    for at in range(len(good) - 64):
        for value in (0x00, 0xFF, 0x7F):
            path.write_bytes(good[:at] + bytes([value]) + good[at + 1 :])
            for arrays, lazy in ((True, False), (True, True), (False, False)):
                try:
                    list(read_metadata(path, arrays, lazy).fields.get("x.names") or ())
                except BrokenGGUF as error:
                    assert "bad.gguf" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"GGML" + data[4:], "starts with b'GGML'"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "version 50331648"),
        (lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:], "claims"),
        (lambda data: data.replace(b"x.eps", b"y.one").replace(b"x.one", b"y.one"), "appears twice"),
        (lambda data: data[:-32], "outside the file"),
    ],
)
def test_broken_files_say_why(change: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", FIELDS, {"w": ("F32", np.ones((2, 8), np.float32))})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BrokenGGUF, match=message):
        read_metadata(path)


def test_an_unfinished_output_leaves_nothing(tmp_path: Path) -> None:
    spec = [TensorSpec("w", (2, 8), "F32")]
    old = tmp_path / "a.gguf"
    old.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), create(old, FIELDS, spec):
        raise KeyboardInterrupt
    with pytest.raises(OutputError, match="tensor w lacks 32 bytes"), create(old, FIELDS, spec) as out:
        out.write("w", 0, bytes(32))
    assert old.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.glob("*.gguf*")] == ["a.gguf"]
    assert not list(tmp_path.glob(".*partial"))


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    spec = [TensorSpec("w", (8,), "F32")]
    path = tmp_path / "a.gguf"
    with create(path, FIELDS, spec) as out:
        with pytest.raises(OutputError, match="another run"), create(path, FIELDS, spec):
            pass
        out.write("w", 0, bytes(32))
    assert read_metadata(path).tensors[0].name == "w"


def test_output_errors(tmp_path: Path) -> None:
    spec = [TensorSpec("w", (8,), "F32")]
    with pytest.raises(OutputError, match="is a folder"), create(tmp_path, FIELDS, spec):
        pass
    huge = [TensorSpec("w", (1 << 30, 1 << 20), "F32")]
    with pytest.raises(OutputError, match="GB free"), create(tmp_path / "a.gguf", FIELDS, huge):
        pass
    with pytest.raises(BadTensor, match="do not fit"), create(tmp_path / "a.gguf", FIELDS, spec) as out:
        out.write("w", 8, bytes(32))
    with (
        pytest.raises(BadTensor, match="cannot hold a tensor"),
        create(tmp_path / "a.gguf", FIELDS, [TensorSpec("n" * 64, (8,), "F32")]),
    ):
        pass
    with pytest.raises(QuantError, match="cannot hold a dict"), create(tmp_path / "a.gguf", {"a": {}}, spec):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), create(tmp_path / "file" / "a.gguf", FIELDS, spec):
        pass


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write(tmp_path / "a.gguf", FIELDS, {"w": ("F32", np.ones(8, np.float32))})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
