"""GGUF files: a reader that trusts nothing, and a writer that knows every offset before the first byte.

Shapes are outermost first, as numpy has them; the file stores them innermost first.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quant.errors import BadTensor, BrokenGGUF, OutputError
from quant.ggml_types import TYPES_BY_ID, GGMLType, ggml_type
from quant.gguf_values import UINT32, UINT64, Cursor, Raw, encode_string, encode_value

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63

_MAX_ALIGNMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    n_bytes: int


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


def read_metadata(path: Path | str, arrays: bool = True) -> GGUFMetadata:
    """Read keys and tensor infos. With arrays=False the values of array keys are None, which is faster."""
    path = Path(path)
    with open(path, "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes < 24:
            raise BrokenGGUF(f"{path} is not a valid GGUF file: it has only {n_bytes} bytes.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = Cursor(memoryview(data), str(path))
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
    data_start = _align(cursor.at, alignment)
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


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * ggml_type(self.type).row_bytes(self.shape[-1])


class GGUFOutput:
    """An open output: its header is written, tensor bytes go to known places, from any thread."""

    def __init__(self, descriptor: int, path: Path, header: bytes, tensors: Sequence[TensorInfo]) -> None:
        self.path = path
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.header_bytes = len(header)
        self.n_bytes = max((_align(t.offset + t.n_bytes, ALIGNMENT) for t in tensors), default=len(header))
        self._descriptor = descriptor
        self._missing = {tensor.name: tensor.n_bytes for tensor in tensors}
        self._lock = threading.Lock()
        self._write_at(header, 0)

    def write(self, name: str, position: int, data: memoryview | bytes) -> None:
        """Write `data` at `position` within the tensor `name`."""
        tensor = self.tensors[name]
        if position < 0 or position + len(data) > tensor.n_bytes:
            raise BadTensor(f"Tensor {name}: {len(data)} bytes at {position} do not fit into {tensor.n_bytes}.")
        self._write_at(data, tensor.offset + position)
        with self._lock:
            self._missing[name] -= len(data)

    def finish(self) -> None:
        """Check that every byte was written, pad, and force the file to the disk."""
        for name, missing in self._missing.items():
            if missing:
                raise OutputError(f"{self.path}: tensor {name} lacks {missing} bytes.")
        os.ftruncate(self._descriptor, self.n_bytes)
        os.fsync(self._descriptor)

    def _write_at(self, data: memoryview | bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            if hasattr(os, "pwrite"):
                while view:
                    written = os.pwrite(self._descriptor, view, offset)
                    view, offset = view[written:], offset + written
            else:
                with self._lock:
                    os.lseek(self._descriptor, offset, os.SEEK_SET)
                    while view:
                        view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            raise OutputError(f"Writing {self.path} failed: {error.strerror or error}.") from error


@contextlib.contextmanager
def create(path: Path, fields: Mapping[str, Any], tensors: Sequence[TensorSpec]) -> Iterator[GGUFOutput]:
    """Open an output. It gets the name `path` only when the block ends well and all bytes are on the disk."""
    header, infos = layout(fields, tensors)
    size = infos[-1].offset + infos[-1].n_bytes if infos else len(header)
    partial = path.with_name(f".{path.name}.partial")
    descriptor = _open_partial(partial, path, size)
    try:
        output = GGUFOutput(descriptor, path, header, infos)
        yield output
        output.finish()
        os.close(descriptor)
        descriptor = -1
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
            partial.unlink(missing_ok=True)


def layout(fields: Mapping[str, Any], tensors: Sequence[TensorSpec]) -> tuple[bytes, list[TensorInfo]]:
    """The header's bytes and the place of every tensor."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(fields))]
    for key, value in fields.items():
        parts += [encode_string(key), encode_value(value)]
    offset = 0
    offsets = []
    for tensor in tensors:
        if len(tensor.name.encode()) > MAX_NAME_BYTES or not 1 <= len(tensor.shape) <= MAX_DIMENSIONS:
            raise BadTensor(f"GGUF cannot hold a tensor named {tensor.name!r} of shape {tensor.shape}.")
        parts.append(encode_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
        parts.append(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", ggml_type(tensor.type).id, offset))
        offsets.append(offset)
        offset = _align(offset + tensor.n_bytes, ALIGNMENT)
    header = b"".join(parts)
    start = _align(len(header), ALIGNMENT)
    infos = [
        TensorInfo(tensor.name, tensor.shape, tensor.type.upper(), start + place, tensor.n_bytes)
        for tensor, place in zip(tensors, offsets, strict=True)
    ]
    return header + bytes(start - len(header)), infos


def _open_partial(partial: Path, path: Path, size: int) -> int:
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file for the output.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OutputError(f"{path} needs {size / 1e9:.2f} GB; {path.parent} has {free / 1e9:.2f} GB free.")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    if not _claim(descriptor, partial):
        os.close(descriptor)
        raise OutputError(f"{path} is being written by another run.")
    os.ftruncate(descriptor, 0)
    return descriptor


def _claim(descriptor: int, partial: Path) -> bool:
    """Hold the file while it is written, so that two runs cannot mix their bytes. Not available on Windows."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other run may have finished and given its file the final name since we opened it.
        return os.path.samestat(os.fstat(descriptor), os.stat(partial))
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    with contextlib.suppress(OSError, PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _align(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment
