"""Importance matrices: how much each column of a weight matrix matters, measured on text. llama.cpp's GGUF format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.errors import BadTensor, BrokenGGUF
from quant.gguf_file import GGUFMetadata, TensorInfo, read_metadata
from quant.recipes import OUTPUT, TOKEN_EMBEDDING

SUMS, COUNTS = ".in_sum2", ".counts"

# Without weights these types turn a matrix into noise.
NEEDY_TYPES = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M")


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """`weights` by tensor name: [matrices, columns]; one matrix, or one for each expert."""

    path: Path
    weights: dict[str, NDArray[np.float32]]
    datasets: list[str] = field(default_factory=list)
    n_chunks: int = 0
    # (tensor, expert) that saw no text; their columns all count the same.
    blind: list[tuple[str, int]] = field(default_factory=list)

    def for_tensor(self, name: str, shape: Sequence[int]) -> NDArray[np.float32] | None:
        """Weights [columns] of a matrix or [experts, columns] of stacked ones; None when it has none."""
        found = self.weights.get(name)
        if found is None:
            return None
        matrices = int(np.prod(shape[:-2], dtype=np.int64))
        if len(found) == 1 and found.size == matrices * shape[-1]:
            # Stacked matrices that every token passes have one count for all of them.
            found = found.reshape(matrices, -1)
        if found.shape != (matrices, shape[-1]):
            raise BadTensor(
                f"{self.path} has weights of shape {list(found.shape)} for tensor {name} of shape {list(shape)}; "
                "was it made from another model?"
            )
        return found if len(shape) > 2 else found[0]

    def check(self, tensors: Sequence[tuple[str, Sequence[int], str]]) -> None:
        """Every (name, shape, type) that cannot do without weights has them, and all weights fit."""
        for name, shape, type in tensors:
            weights = self.for_tensor(name, shape)
            if weights is None and type in NEEDY_TYPES and name not in (OUTPUT, TOKEN_EMBEDDING):
                raise BadTensor(f"{type} needs an importance matrix, and {self.path} has no weights for tensor {name}.")

    def stamp(self) -> str:
        """Changes when the file changes."""
        status = os.stat(self.path)
        return f"{self.path.resolve()} {status.st_size} {status.st_mtime_ns}"

    def fields(self) -> dict[str, Any]:
        """The keys with which a quantized file says what steered it."""
        keys: dict[str, Any] = {
            "quantize.imatrix.file": self.path.name,
            "quantize.imatrix.entries_count": len(self.weights),
        }
        if self.datasets:
            keys["quantize.imatrix.dataset"] = self.datasets[0]
        if self.n_chunks:
            keys["quantize.imatrix.chunks_count"] = self.n_chunks
        return keys


@dataclass(frozen=True, slots=True)
class Statistics:
    """A file as it is: by tensor name, sums of squares [matrices, columns] and how many rows each matrix saw."""

    path: Path
    entries: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    datasets: list[str]
    n_chunks: int


def load(path: Path) -> ImportanceMatrix:
    found = read_statistics(path)
    weights: dict[str, NDArray[np.float32]] = {}
    blind: list[tuple[str, int]] = []
    for name, (sums, counts) in found.entries.items():
        weights[name], unseen = _means(sums, counts)
        blind += [(name, index) for index in unseen]
    return ImportanceMatrix(found.path, weights, found.datasets, found.n_chunks, blind)


def read_statistics(path: Path) -> Statistics:
    """The sums and counts of a file, checked."""
    path = Path(path)
    metadata = read_metadata(path)
    if metadata.fields.get("general.type") != "imatrix":
        raise BrokenGGUF(f"{path} is not an importance matrix in GGUF format.")
    tensors = {tensor.name: tensor for tensor in metadata.tensors}
    entries: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    for name, tensor in tensors.items():
        if not name.endswith(SUMS):
            continue
        entry = name.removesuffix(SUMS)
        counts = tensors.get(f"{entry}{COUNTS}")
        if counts is None:
            raise BrokenGGUF(f"{path} has {name} without {entry}{COUNTS}.")
        entries[entry] = _checked(_values(metadata, tensor), _values(metadata, counts), f"{path}: {name}")
    if not entries:
        raise BrokenGGUF(f"{path} has no entries.")
    datasets = [str(dataset) for dataset in metadata.fields.get("imatrix.datasets") or []]
    return Statistics(path, entries, datasets, int(metadata.fields.get("imatrix.chunk_count", 0)))


def _values(metadata: GGUFMetadata, tensor: TensorInfo) -> NDArray[np.float32]:
    if tensor.type != "F32":
        raise BrokenGGUF(f"{metadata.path}: {tensor.name} is {tensor.type}; F32 was expected.")
    values: NDArray[np.float32] = np.fromfile(metadata.path, "<f4", tensor.n_bytes // 4, offset=tensor.offset)
    return values.reshape(-1, tensor.shape[-1])


def _checked(
    sums: NDArray[np.float32], counts: NDArray[np.float32], what: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    counts = counts.reshape(-1)
    if len(counts) != len(sums):
        raise BrokenGGUF(f"{what} has {len(sums)} matrices and {len(counts)} counts.")
    if not (np.isfinite(sums).all() and np.isfinite(counts).all() and (sums >= 0).all()):
        raise BrokenGGUF(f"{what} contains NaN, infinity or a negative sum of squares.")
    return sums, counts


def _means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[int]]:
    """The mean square of each column, and the matrices that saw nothing."""
    means = np.ones_like(sums)
    seen = counts > 0
    means[seen] = sums[seen] / counts[seen, None]
    return means, [int(index) for index in np.flatnonzero(~seen)]
