"""Streams tensors through the codec into GGUF outputs.

Worker threads hold one block of rows each; every row is read once and written once.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import quantize_rows
from quant.errors import QuantError
from quant.ggml_types import ggml_type
from quant.gguf_output import GGUFOutput

_BASE_MEMORY = 120 << 20  # Python, numpy and the libraries
BLOCK_VALUES = 1 << 20  # values that one thread holds at a time

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a tensor that comes from one place: `read(first, last)` gives those rows as float32."""

    n_rows: int
    read: Callable[[int, int], Rows]
    whole: bool = False  # its rows cannot be read in parts without reading the rest again
    encoded: Callable[[int, int], NDArray[np.uint8]] | None = (
        None  # gives rows that need no encoding, instead of `read`
    )
    origin: str = ""  # what messages call the place


@dataclass(frozen=True, slots=True)
class TensorStream:
    """A tensor of an output and the pieces that make up its rows, in order (for stacked experts, one an expert)."""

    output: GGUFOutput
    name: str
    type: str
    columns: int
    pieces: Sequence[Piece]
    imatrix: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. Bytes are bytes of output, or of samples while it measures."""

    phase: str
    tensors_done: int
    tensors_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class _Block:
    tensor: TensorStream
    piece: Piece
    piece_index: int
    first: int
    last: int
    start_row: int  # of the piece within the tensor


def memory_bytes(largest_block: int, jobs: int) -> int:
    """A run's estimated peak: in each thread a block's source bytes, its float32 values and its encoded form."""
    return _BASE_MEMORY + worker_count(jobs) * 16 * largest_block


def largest_block(columns: int, pieces: Sequence[Piece]) -> int:
    """Values that a thread holds at a time."""
    whole = max((piece.n_rows for piece in pieces if piece.whole), default=0)
    return max(whole, max(1, BLOCK_VALUES // columns)) * columns


def worker_count(jobs: int) -> int:
    return jobs if jobs > 0 else max(1, os.cpu_count() or 1)


def stream_tensors(
    tensors: Sequence[TensorStream], *, jobs: int = 0, progress: Callable[[Progress], None] | None = None
) -> None:
    """Read, encode and write every tensor. The first error stops all threads and is raised here."""
    run = _Run(tensors)
    threads = [threading.Thread(target=run.work, daemon=True) for _ in range(worker_count(jobs))]
    for thread in threads:
        thread.start()
    try:
        run.report(progress or (lambda _: None))
    finally:
        run.stop.set()
        for thread in threads:
            thread.join()


class _Run:
    """The shared state of one run: blocks are handed out in file order."""

    def __init__(self, tensors: Sequence[TensorStream]) -> None:
        self.stop = threading.Event()
        self._tensors = tensors
        self._blocks = _blocks([tensor for tensor in tensors if not _is_complete(tensor)])
        self._lock = threading.Lock()
        self._results: queue.SimpleQueue[tuple[TensorStream, int] | BaseException] = queue.SimpleQueue()
        self._sizes = [(tensor.output.tensors[tensor.name].n_bytes) for tensor in tensors]

    def work(self) -> None:
        while not self.stop.is_set():
            with self._lock:
                block = next(self._blocks, None)
            if block is None:
                return
            try:
                self._results.put((block.tensor, _encode(block)))
            except BaseException as error:
                self._results.put(error)
                return

    def report(self, progress: Callable[[Progress], None]) -> None:
        """Wait for the workers on the calling thread, where Ctrl-C arrives."""
        remaining = {id(tensor): size for tensor, size in zip(self._tensors, self._sizes, strict=True)}
        sizes = list(zip(self._tensors, self._sizes, strict=True))
        total, count = sum(self._sizes), len(sizes)
        done = sum(size for tensor, size in sizes if _is_complete(tensor))
        tensors_done = sum(not size or _is_complete(tensor) for tensor, size in sizes)
        progress(Progress("write", tensors_done, count, done, total))
        while done < total:
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            tensor, n_bytes = result
            done += n_bytes
            remaining[id(tensor)] -= n_bytes
            tensors_done += not remaining[id(tensor)]
            progress(Progress("write", tensors_done, count, done, total))


def _is_complete(tensor: TensorStream) -> bool:
    """Written by an earlier run."""
    return tensor.name in tensor.output.complete


def _blocks(tensors: Sequence[TensorStream]) -> Iterator[_Block]:
    for tensor in tensors:
        step = max(1, BLOCK_VALUES // tensor.columns)
        start = 0
        for index, piece in enumerate(tensor.pieces):
            size = piece.n_rows if piece.whole else step
            for first in range(0, piece.n_rows, max(1, size)):
                yield _Block(tensor, piece, index, first, min(piece.n_rows, first + size), start)
            start += piece.n_rows


def _encode(block: _Block) -> int:
    """Read, encode and write one block; returns the bytes written."""
    tensor = block.tensor
    try:
        data = _encoded_rows(block)
    except QuantError as error:
        place = f" ({block.piece.origin})" if block.piece.origin else ""
        row = block.start_row + block.first
        raise type(error)(f"Tensor {tensor.name}, from row {row}{place}: {error}") from error
    position = (block.start_row + block.first) * ggml_type(tensor.type).row_bytes(tensor.columns)
    tensor.output.write(tensor.name, position, data.data.cast("B"))
    return data.nbytes


def _encoded_rows(block: _Block) -> NDArray[np.uint8]:
    tensor, piece = block.tensor, block.piece
    if piece.encoded is not None:
        return piece.encoded(block.first, block.last)
    rows = piece.read(block.first, block.last)
    weights = tensor.imatrix
    if weights is not None and weights.ndim == 2:
        weights = weights[block.piece_index]
    return quantize_rows(rows.reshape(block.last - block.first, tensor.columns), tensor.type, weights)
