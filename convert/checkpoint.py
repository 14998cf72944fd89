"""A Hugging Face checkpoint: its JSON files and its safetensors, read lazily by ranges of rows.

The headers are checked here, before anything is converted: missing shards, truncated files, overlapping tensors.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from convert.errors import BrokenCheckpoint
from convert.source import open_source
from quant import libggml

Rows = NDArray[np.float32]

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
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
    """Reads the header of every shard; use as a context manager."""

    def __init__(self, where: Path | str, config: str = "config.json", weights: str = SINGLE) -> None:
        self._weights = weights
        self._source = open_source(where)
        self.folder = self._source.label
        try:
            self.config: dict[str, Any] = self.json(config, required=True)
            self.tensors = self._read_headers()
        except BaseException:
            self._source.close()
            raise
        self.used: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    @property
    def name(self) -> str:
        """What the checkpoint is called where it lies."""
        return self._source.name

    def stamp(self) -> str:
        """Changes when any file changes. An output may lie in the same folder: GGUF and hidden files do not count."""
        files = (file for file in self._source.files() if not file.startswith(".") and not file.endswith(".gguf"))
        return "\n".join(self._source.stamp(file) for file in files)

    def _read_headers(self) -> dict[str, TensorEntry]:
        places = self._shard_files()
        tensors: dict[str, TensorEntry] = {}
        for file in dict.fromkeys(places.values()) if places else self._single_file():
            for entry in self._read_header(file):
                if entry.name in tensors:
                    other = tensors[entry.name].file.name
                    raise BrokenCheckpoint(f"Tensor {entry.name} is in {other} and again in {file}.")
                tensors[entry.name] = entry
        for name, file in places.items():
            if name not in tensors:
                raise BrokenCheckpoint(f"Tensor {name} is not in {self.folder / file}, where the index says it is.")
        return tensors

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
        size = self._source.size(name)
        return None if size is None else self._read(name, 0, size)

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
        try:
            data = self._read(entry.file.name, entry.start + first * row_bytes, (last - first) * row_bytes)
        except EOFError:
            raise BrokenCheckpoint(
                f"{entry.file} ended inside tensor {entry.name}; did it change while being read?"
            ) from None
        return _to_f32(data, entry.dtype).reshape(last - first, entry.columns)

    def _read(self, file: str, start: int, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        missing = n_bytes
        while missing:
            part = self._source.read(file, start + n_bytes - missing, missing)
            if not part:
                raise EOFError(file)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _shard_files(self) -> dict[str, str]:
        """Tensor name -> shard, from the index; empty when there is no index."""
        data = self.raw(INDEX)
        if data is None:
            return {}
        index = self.folder / INDEX
        try:
            files = {str(name): str(file) for name, file in json.loads(data)["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenCheckpoint(f"{index} is not a shard index: {error!r}.") from None
        for file in sorted(set(files.values())):
            if Path(file).name != file:
                raise BrokenCheckpoint(f"{index} names {file!r}, which is outside the folder.")
            if self._source.size(file) is None:
                raise BrokenCheckpoint(f"Shard {file} is missing from {self.folder}; download it again.")
        return files

    def _single_file(self) -> list[str]:
        files = self._source.files()
        if self._weights in files:
            return [self._weights]
        if any(file.endswith(".safetensors") for file in files):
            raise BrokenCheckpoint(f"{self.folder} has shards but no {INDEX}; download the index too.")
        raise BrokenCheckpoint(f"{self.folder} has no {self._weights} and no {INDEX}.")

    def _read_header(self, file: str) -> list[TensorEntry]:
        path, size = self.folder / file, self._source.size(file) or 0
        prefix = self._read(file, 0, min(8, size))
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise BrokenCheckpoint(f"{path} is not a safetensors file: its header claims {length} of {size} bytes.")
        try:
            header = json.loads(self._read(file, 8, length), object_pairs_hook=_unique)
            header.pop("__metadata__", None)
            entries = [_entry(path, name, info, 8 + length) for name, info in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenCheckpoint(f"{path} has a damaged header: {error}.") from None
        _check_places(path, entries, size)
        return entries


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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name appears twice")
    return out


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
