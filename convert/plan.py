"""TensorPlan: what a tensor of the output is called, its shape, and where its rows come from. Nothing is read yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert import fp8
from convert.checkpoint import Checkpoint, Rows, TensorEntry
from convert.errors import BrokenCheckpoint
from quant.recipes import ModelFacts
from quant.stream import Piece

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One tensor of the output; `pieces` give its rows in order."""

    name: str
    shape: Shape
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One GGUF file: its metadata and tensors, types not yet chosen."""

    fields: dict[str, Any]
    tensors: list[TensorPlan]
    facts: ModelFacts = field(default_factory=ModelFacts)


def _open(checkpoint: Checkpoint, name: str, *shapes: Shape) -> tuple[TensorEntry, Callable[[int, int], Rows]]:
    """The tensor and its reader; its shape must be one of `shapes`."""
    entry = checkpoint.entry(name)
    if entry.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise BrokenCheckpoint(
            f"Tensor {name} in {entry.file} has shape {list(entry.shape)}; the config asks for {wanted}."
        )
    if entry.dtype == "F8_E4M3" or fp8.has_scale(checkpoint, name):
        if entry.dtype != "F8_E4M3" or not fp8.has_scale(checkpoint, name) or len(entry.shape) < 2:
            raise BrokenCheckpoint(
                f"Tensor {name} in {entry.file} is {entry.dtype}: FP8 weights and their {fp8.SCALE_SUFFIX} go together."
            )
        return entry, fp8.reader(checkpoint, entry)

    def read(first: int, last: int) -> Rows:
        return checkpoint.read_rows(entry, first, last)

    return entry, read


def _piece(entry: TensorEntry, n_rows: int, read: Callable[[int, int], Rows], whole: bool = False) -> Piece:
    return Piece(n_rows, read, whole, origin=f"{entry.name} in {entry.file}")


def whole(checkpoint: Checkpoint, source: str, name: str, shape: Shape, stored: Shape | None = None) -> TensorPlan:
    """A tensor that is copied. `stored` is its shape in the checkpoint where that has more dimensions of size 1."""
    entry, read = _open(checkpoint, source, shape, stored or shape)
    return TensorPlan(name, shape, [_piece(entry, math.prod(shape[:-1]), read)])


def stacked(checkpoint: Checkpoint, sources: Sequence[str], name: str, shape: Shape) -> TensorPlan:
    """Matrices of equal `shape`, one a source, stacked into one tensor and read one at a time."""
    opened = [_open(checkpoint, source, shape) for source in sources]
    pieces = [_piece(entry, shape[0], read) for entry, read in opened]
    return TensorPlan(name, (len(pieces), *shape), pieces)


def packed(
    checkpoint: Checkpoint, source: str, name: str, shape: Shape, rows: tuple[int, int], transposed: bool
) -> TensorPlan:
    """Rows [rows[0], rows[1]) of each matrix of a packed expert tensor `shape` = [experts, rows, columns].

    `transposed`: the checkpoint holds [experts, columns, rows].
    """
    n_experts, height, width = shape
    entry, read = _open(checkpoint, source, (n_experts, width, height) if transposed else shape)
    low, high = rows
    inner = entry.shape[1]

    def piece(expert: int) -> Piece:
        base = expert * inner
        if not transposed:
            return _piece(entry, high - low, lambda first, last: read(base + low + first, base + low + last))
        return _piece(
            entry,
            high - low,
            lambda first, last: np.ascontiguousarray(read(base, base + inner)[:, low + first : low + last].T),
            whole=True,
        )

    return TensorPlan(name, (n_experts, high - low, width), [piece(expert) for expert in range(n_experts)])


def heads(
    checkpoint: Checkpoint, source: str, name: str, stored: Shape, starts: Sequence[int], size: int, paired: bool
) -> TensorPlan:
    """Attention heads of `size` rows each, which begin at `starts` in a matrix of shape `stored`.

    `paired`: row i of the first half and row i of the second half, which one rotation joins, come to stand together.
    """
    entry, read = _open(checkpoint, source, stored)
    columns = stored[-1]

    def piece(start: int) -> Piece:
        if not paired:
            return _piece(entry, size, lambda first, last: read(start + first, start + last))

        def read_paired(first: int, last: int) -> Rows:
            return paired_rows(read(start, start + size), 1)[first:last]

        return _piece(entry, size, read_paired, whole=True)

    return TensorPlan(name, (len(starts) * size, columns), [piece(start) for start in starts])


def paired_rows(rows: Rows, n_heads: int) -> Rows:
    """The rows of `n_heads` heads, in each of which the two that one rotation joins come to stand together."""
    size = len(rows) // n_heads
    halves = rows.reshape(n_heads, 2, size // 2, rows.shape[-1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def rolled(checkpoint: Checkpoint, source: str, name: str, n_rows: int, columns: int) -> TensorPlan:
    """The first row moved to the end."""
    entry, read = _open(checkpoint, source, (1, n_rows, columns), (n_rows, columns))
    last_row = _piece(entry, 1, lambda first, last: read(0, 1))
    rest = _piece(entry, n_rows - 1, lambda first, last: read(first + 1, last + 1))
    return TensorPlan(name, (n_rows, columns), [rest, last_row])
