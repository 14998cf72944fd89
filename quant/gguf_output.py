"""Writing GGUF files: every offset is known before the first byte, and a stopped run continues where it was.

The output is written beside its final name, which it gets when it is complete and on the disk.
Shapes are outermost first, as numpy has them; the file stores them innermost first.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import BadTensor, OutputError
from quant.file_claim import claim
from quant.ggml_types import ggml_type
from quant.gguf_file import ALIGNMENT, MAGIC, MAX_DIMENSIONS, TensorInfo, align
from quant.gguf_values import encode_string, encode_value
from quant.journal import Journal

VERSION = 3
MAX_NAME_BYTES = 63


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

    def __init__(
        self, descriptor: int, path: Path, header: bytes, tensors: Sequence[TensorInfo], journal: Journal
    ) -> None:
        self.path = path
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.header_bytes = len(header)
        self.n_bytes = max((align(t.offset + t.n_bytes, ALIGNMENT) for t in tensors), default=len(header))
        self.complete = journal.complete & set(self.tensors)  # written by an earlier run
        self._journal = journal
        self._descriptor = descriptor
        self._missing = {t.name: t.n_bytes for t in tensors if t.name not in self.complete}
        self._lock = threading.Lock()
        self._finished = False
        self._write_at(header, 0)

    def write(self, name: str, position: int, data: memoryview | bytes) -> None:
        """Write `data` at `position` within the tensor `name`."""
        tensor = self.tensors[name]
        if position < 0 or position + len(data) > tensor.n_bytes:
            raise BadTensor(f"Tensor {name}: {len(data)} bytes at {position} do not fit into {tensor.n_bytes}.")
        self._write_at(data, tensor.offset + position)
        with self._lock:
            self._missing[name] -= len(data)
            is_complete = not self._missing[name]
        if is_complete:
            self._journal.note(name, tensor.n_bytes)

    def finish(self) -> None:
        """Check that every byte was written, pad, and force the file to the disk. Once is enough."""
        if self._finished:
            return
        for name, missing in self._missing.items():
            if missing:
                raise OutputError(f"{self.path}: tensor {name} lacks {missing} bytes.")
        os.ftruncate(self._descriptor, self.n_bytes)
        os.fsync(self._descriptor)
        self._finished = True

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
            kept = "; what is written is kept: make room and run it again" if error.errno == errno.ENOSPC else ""
            raise OutputError(f"Writing {self.path} failed: {error.strerror or error}{kept}.") from error


@contextlib.contextmanager
def create(
    path: Path,
    fields: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    *,
    sources: str | None = None,
    restart: bool = False,
) -> Iterator[GGUFOutput]:
    """Open an output. It gets the name `path` only when the block ends well and all bytes are on the disk.

    Args:
        sources: what the tensors are made from, in words that change when it changes. When given, a run that was
            stopped leaves its tensors, and the next one with the same sources, keys and tensors continues.
        restart: begin anew in any case.
    """
    header, infos = layout(fields, tensors)
    size = infos[-1].offset + infos[-1].n_bytes if infos else len(header)
    partial = path.with_name(f".{path.name}.partial")
    descriptor = _open_partial(partial, path, size)
    journal = Journal(path.with_name(f".{path.name}.journal"), descriptor, header, sources)
    keep = False
    try:
        if restart or not journal.resume(descriptor):
            os.ftruncate(descriptor, 0)
            journal.start()
        output = GGUFOutput(descriptor, path, header, infos, journal)
        yield output
        output.finish()
        os.close(descriptor)
        descriptor = -1
        os.replace(partial, path)
        _sync_folder(path.parent)
    except BaseException as error:
        # Wrong weights stay wrong: only a run that can succeed later is kept.
        keep = not isinstance(error, BadTensor) and journal.flush()
        raise
    finally:
        journal.close(keep=keep)
        if descriptor >= 0:
            os.close(descriptor)
            if not keep:
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
        offset = align(offset + tensor.n_bytes, ALIGNMENT)
    header = b"".join(parts)
    start = align(len(header), ALIGNMENT)
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
        free = shutil.disk_usage(path.parent).free + _blocks_of(partial)
        if free < size:
            raise OutputError(f"{path} needs {size / 1e9:.2f} GB; {path.parent} has {free / 1e9:.2f} GB free.")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    if not claim(descriptor, partial):
        os.close(descriptor)
        raise OutputError(f"{path} is being written by another run.")
    return descriptor


def _blocks_of(path: Path) -> int:
    """What a file takes on the disk."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return int(getattr(status, "st_blocks", 0)) * 512


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system can."""
    with contextlib.suppress(OSError, PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
