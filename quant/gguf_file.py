"""Reading GGUF files: a reader that trusts nothing.

Shapes are outermost first, as numpy has them; the file stores them innermost first.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quant.errors import BrokenGGUF
from quant.ggml_types import TYPES_BY_ID, GGMLType
from quant.gguf_values import UINT32, UINT64, Cursor, Raw

MAGIC = b"GGUF"
ALIGNMENT = 32
MAX_DIMENSIONS = 4

_MAX_ALIGNMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int
    path: Path | None = None  # its file, in models of several files


@dataclass(frozen=True, slots=True)
class GGUFMetadata:
    """What a GGUF file says about itself."""

    path: Path
    fields: dict[str, Any]
    tensors: list[TensorInfo]
    n_bytes: int
    alignment: int = ALIGNMENT
    # Where each encoded value (type id and payload) stands, so that it can be copied unchanged.
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    def raw_fields(self) -> dict[str, Raw]:
        """Every key with its value as it is in the file."""
        with open(self.path, "rb") as file:
            head = file.read(max((end for _, end in self.spans.values()), default=0))
        return {key: Raw(head[start:end]) for key, (start, end) in self.spans.items()}


def read_metadata(path: Path | str, arrays: bool = True, lazy: bool = False) -> GGUFMetadata:
    """Read keys and tensor infos.

    With arrays=False the values of array keys are None, which is faster. With `lazy`, arrays of strings are sequences
    that decode a string when it is asked for.
    """
    path = Path(path)
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes < 24:
            raise BrokenGGUF(f"{path} is not a valid GGUF file: it has only {n_bytes} bytes.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = Cursor(memoryview(data), str(path), lazy)
            try:
                return _read(cursor, path, n_bytes, arrays)
            finally:
                cursor.data.release()


def _read(cursor: Cursor, path: Path, n_bytes: int, arrays: bool) -> GGUFMetadata:
    magic = bytes(cursor.take(4))
    if magic != MAGIC:
        raise cursor.broken(f"it starts with {magic!r}")
    version = cursor.scalar(UINT32)
    if version not in (2, 3):
        raise cursor.broken(f"version {version} is not supported")
    n_tensors, n_fields = cursor.scalar(UINT64), cursor.scalar(UINT64)
    if n_tensors > n_bytes // 32 or n_fields > n_bytes // 13:
        raise cursor.broken(f"it claims {n_tensors} tensors and {n_fields} keys in {n_bytes} bytes")
    fields: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(n_fields):
        key = cursor.string()
        if key in fields:
            raise cursor.broken(f"the key {key!r} appears twice")
        start = cursor.at
        fields[key] = cursor.value(arrays)
        spans[key] = (start, cursor.at)
    alignment = fields.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= _MAX_ALIGNMENT or alignment % 8:
        raise cursor.broken(f"alignment {alignment!r}")
    tensors = _read_infos(cursor, n_tensors, alignment, n_bytes)
    return GGUFMetadata(path, fields, tensors, n_bytes, alignment, spans)


def _read_infos(cursor: Cursor, count: int, alignment: int, n_bytes: int) -> list[TensorInfo]:
    found: list[tuple[str, tuple[int, ...], GGMLType, int]] = []
    for _ in range(count):
        name = cursor.string()
        n_dimensions = cursor.scalar(UINT32)
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise cursor.broken(f"tensor {name!r} has {n_dimensions} dimensions")
        shape = tuple(cursor.scalar(UINT64) for _ in range(n_dimensions))[::-1]
        type_id, offset = cursor.scalar(UINT32), cursor.scalar(UINT64)
        if type_id not in TYPES_BY_ID:
            raise cursor.broken(f"tensor {name!r} has the unknown type {type_id}")
        found.append((name, shape, TYPES_BY_ID[type_id], offset))
    if len({name for name, *_ in found}) != len(found):
        raise cursor.broken("two tensors have the same name")
    data_start = align(cursor.at, alignment)
    tensors = []
    for name, shape, kind, offset in found:
        n_values = math.prod(shape)
        if shape[-1] % kind.block_size:
            raise cursor.broken(f"tensor {name!r} of shape {shape} is not whole blocks of {kind.name}")
        size = n_values // kind.block_size * kind.block_bytes
        if offset % alignment or data_start + offset + size > n_bytes:
            raise cursor.broken(f"tensor {name!r} lies outside the file; it may be truncated")
        tensors.append(TensorInfo(name, shape, kind.name, data_start + offset, size))
    _check_overlap(cursor, tensors)
    return tensors


def _check_overlap(cursor: Cursor, tensors: Sequence[TensorInfo]) -> None:
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes)):
        if tensor.offset < end:
            raise cursor.broken(f"tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.n_bytes, tensor.name


def align(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment
