"""A Hugging Face checkpoint in a folder: its JSON files and its safetensors, read lazily by ranges of rows.

The headers are checked here, before anything is converted: missing shards, truncated files, overlapping tensors.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from convert.errors import BrokenCheckpoint
from quant import libggml

Rows = NDArray[np.float32]

_MAX_HEADER = 100 << 20
_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
READABLE = ("F32", "F16", "BF16", "F8_E4M3")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint: `start` counts from the start of its file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    n_bytes: int

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])


class Checkpoint:
    """Opens every shard; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise BrokenCheckpoint(f"{folder} is not a folder with a checkpoint.")
        self.config: dict[str, Any] = self.json("config.json", required=True)
        files = _shard_files(self.folder)
        self.tensors: dict[str, TensorEntry] = {}
        self.used: set[str] = set()
        for path in dict.fromkeys(files.values()) if files else _single_file(self.folder):
            for entry in _read_header(path):
                if entry.name in self.tensors:
                    other = self.tensors[entry.name].file.name
                    raise BrokenCheckpoint(f"Tensor {entry.name} is in {other} and again in {path.name}.")
                self.tensors[entry.name] = entry
        for name, path in files.items():
            if name not in self.tensors:
                raise BrokenCheckpoint(f"Tensor {name} is not in {path}, where the index says it is.")
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def json(self, name: str, *, required: bool = False) -> Any:
        """The content of a JSON file of the folder; an empty dict when it is absent and not required."""
        text = self.text(name)
        if text is None:
            if required:
                raise BrokenCheckpoint(f"{self.folder} has no {name}; is it a Hugging Face checkpoint?")
            return {}
        try:
            return json.loads(text)
        except ValueError as error:
            raise BrokenCheckpoint(f"{self.folder / name} is not valid JSON: {error}.") from None

    def text(self, name: str) -> str | None:
        data = self.raw(name)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokenCheckpoint(f"{self.folder / name} is not UTF-8: {error}.") from None

    def raw(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.is_file() else None

    def entry(self, name: str) -> TensorEntry:
        """The tensor called `name`, which from now on counts as used."""
        try:
            found = self.tensors[name]
        except KeyError:
            raise BrokenCheckpoint(f"Tensor {name} is missing from {self.folder}.") from None
        if found.dtype not in READABLE:
            raise BrokenCheckpoint(
                f"Tensor {name} in {found.file} has dtype {found.dtype}; only {', '.join(READABLE)} can be converted."
            )
        self.used.add(name)
        return found

    def read_rows(self, entry: TensorEntry, first: int, last: int) -> Rows:
        """Rows [first, last) as float32, all leading dimensions flattened into rows."""
        width = _DTYPE_BYTES[entry.dtype]
        row_bytes = entry.columns * width
        data = self._read(entry, entry.start + first * row_bytes, (last - first) * row_bytes)
        return _to_f32(data, entry.dtype).reshape(last - first, entry.columns)

    def _read(self, entry: TensorEntry, start: int, n_bytes: int) -> bytes:
        descriptor = self._descriptor(entry.file)
        parts: list[bytes] = []
        missing = n_bytes
        while missing:
            part = self._read_at(descriptor, missing, start + n_bytes - missing)
            if not part:
                raise BrokenCheckpoint(
                    f"{entry.file} ended inside tensor {entry.name}; did it change while being read?"
                )
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_at(self, descriptor: int, n_bytes: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(descriptor, n_bytes, start)
        with self._lock:
            os.lseek(descriptor, start, os.SEEK_SET)
            return os.read(descriptor, n_bytes)

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._descriptors[path]


def _to_f32(data: bytes, dtype: str) -> Rows:
    if dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if dtype == "BF16":
        return libggml.bf16_to_f32(np.frombuffer(data, "<u2"))
    if dtype == "F16":
        return libggml.f16_to_f32(np.frombuffer(data, "<u2"))
    return _fp8_table()[np.frombuffer(data, np.uint8)]


@functools.cache
def _fp8_table() -> Rows:
    """All 256 values of F8_E4M3."""
    table: Rows = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return table


def _shard_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> shard, from the index; empty when there is no index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {}
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        files = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenCheckpoint(f"{index} is not a shard index: {error!r}.") from None
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise BrokenCheckpoint(f"{index} names {file!r}, which is outside the folder.")
        if not (folder / file).is_file():
            raise BrokenCheckpoint(f"Shard {file} is missing from {folder}; download it again.")
    return {name: folder / file for name, file in files.items()}


def _single_file(folder: Path) -> list[Path]:
    path = folder / "model.safetensors"
    if path.is_file():
        return [path]
    if next(folder.glob("*.safetensors"), None):
        raise BrokenCheckpoint(f"{folder} has shards but no model.safetensors.index.json; download the index too.")
    raise BrokenCheckpoint(f"{folder} has no model.safetensors and no model.safetensors.index.json.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name appears twice")
    return out


def _read_header(path: Path) -> Iterator[TensorEntry]:
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise BrokenCheckpoint(f"{path} is not a safetensors file: its header claims {length} of {size} bytes.")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_unique)
            header.pop("__metadata__", None)
            entries = [_entry(path, name, info, 8 + length) for name, info in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenCheckpoint(f"{path} has a damaged header: {error}.") from None
    _check_places(path, entries, size)
    return iter(entries)


def _entry(path: Path, name: str, info: dict[str, Any], base: int) -> TensorEntry:
    dtype, shape = str(info["dtype"]), tuple(info["shape"])
    start, end = info["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
        raise BrokenCheckpoint(f"Tensor {name} in {path} has a shape or offsets that are not counts.")
    if dtype not in _DTYPE_BYTES:
        raise BrokenCheckpoint(f"Tensor {name} in {path} has the unknown dtype {dtype!r}.")
    n_bytes = math.prod(shape) * _DTYPE_BYTES[dtype]
    if end - start != n_bytes:
        raise BrokenCheckpoint(
            f"Tensor {name} in {path}: {dtype} {list(shape)} takes {n_bytes} bytes; the header gives it {end - start}."
        )
    return TensorEntry(name, path, dtype, shape, base + start, n_bytes)


def _check_places(path: Path, entries: list[TensorEntry], size: int) -> None:
    ordered = sorted(entries, key=lambda entry: (entry.start, entry.n_bytes))
    for entry in ordered:
        if entry.start + entry.n_bytes > size:
            raise BrokenCheckpoint(
                f"{path} is truncated: tensor {entry.name} ends at byte {entry.start + entry.n_bytes}, "
                f"the file at {size}. Download it again."
            )
    for before, after in itertools.pairwise(ordered):
        if before.start + before.n_bytes > after.start:
            raise BrokenCheckpoint(f"Tensors {before.name} and {after.name} in {path} overlap.")
