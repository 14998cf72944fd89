"""Making importance matrices: sums of squares of what each weight matrix was multiplied with, in llama.cpp's file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.errors import BadTensor, QuantError
from quant.gguf_output import TensorSpec, create
from quant.imatrix import COUNTS, SUMS, Statistics

Doubles = NDArray[np.float64]


@dataclass(slots=True)
class _Entry:
    """One weight: sums of squares [matrices, columns], and how many rows each matrix was multiplied with."""

    sums: Doubles
    counts: NDArray[np.int64]

    def add(self, matrix: int, rows: NDArray[np.float32], name: str) -> None:
        added = np.square(rows, dtype=np.float64).sum(axis=0)
        if not np.isfinite(added).all():
            raise BadTensor(
                f"The inputs of {name} are not finite numbers, so their importance is unknown: "
                "the model's file may be damaged, or its type too coarse; try one of a finer type."
            )
        self.sums[matrix] += added
        self.counts[matrix] += len(rows)


class ImatrixCollector:
    """Adds up, in double precision, what is observed and what other files hold; then `save`."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._datasets: list[str] = []

    def __len__(self) -> int:
        return len(self._entries)

    def observe(
        self, name: str, rows: NDArray[np.float32], experts: NDArray[np.int32] | None = None, n_experts: int = 1
    ) -> None:
        """Count `rows` [n, columns] as inputs of the weight `name`.

        Args:
            experts: for a stack of `n_experts` matrices, which of them [n, k] take each row. Without it all rows
                belong to one matrix.
        """
        entry = self._entry(name, n_experts, rows.shape[1])
        if experts is None:
            entry.add(0, rows, name)
            return
        for expert in np.unique(experts):
            entry.add(int(expert), rows[np.nonzero(experts == expert)[0]], name)

    def merge(self, other: Statistics) -> None:
        """Add what another file holds."""
        for name, (sums, counts) in other.entries.items():
            try:
                entry = self._entry(name, *sums.shape)
            except BadTensor as error:
                raise BadTensor(f"{other.path} cannot be merged: {error}") from None
            entry.sums += sums
            entry.counts += counts.astype(np.int64)
        self.add_datasets(other.datasets)

    def add_datasets(self, names: Iterable[str]) -> None:
        """Say what the matrix is made from."""
        self._datasets += names

    def blind(self) -> list[tuple[str, int]]:
        """(weight, expert) that saw no rows. A quantizer gives all their columns the weight 1."""
        return [
            (name, int(index))
            for name, entry in sorted(self._entries.items())
            for index in np.flatnonzero(entry.counts == 0)
        ]

    def save(self, path: Path, chunk_size: int) -> None:
        """Write llama.cpp's GGUF file, whole or not at all."""
        if not self._entries:
            raise QuantError(f"Nothing was observed, so {path} is not written.")
        rows = max(int(entry.counts.max()) for entry in self._entries.values())
        fields = {
            "general.type": "imatrix",
            "imatrix.datasets": self._datasets,
            # llama.cpp too counts the chunks by the rows of the weight that saw most.
            "imatrix.chunk_count": -(-rows // chunk_size),
            "imatrix.chunk_size": chunk_size,
        }
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, entry in sorted(self._entries.items()):
            arrays[f"{name}{SUMS}"] = entry.sums.astype(np.float32)
            arrays[f"{name}{COUNTS}"] = entry.counts.astype(np.float32)[:, None]
        specs = [TensorSpec(name, values.shape, "F32") for name, values in arrays.items()]
        with create(path, fields, specs) as output:
            for name, values in arrays.items():
                output.write(name, 0, values.tobytes())

    def _entry(self, name: str, matrices: int, columns: int) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            entry = _Entry(np.zeros((matrices, columns)), np.zeros(matrices, np.int64))
            self._entries[name] = entry
        if entry.sums.shape != (matrices, columns):
            raise BadTensor(
                f"{name} has {matrices} x {columns} sums here and {' x '.join(map(str, entry.sums.shape))} elsewhere; "
                "are they of the same model?"
            )
        return entry


def check_model(statistics: Statistics, shapes: Mapping[str, Sequence[int]]) -> None:
    """BadTensor when a file was not made from the model whose tensors have these shapes."""
    for name, (sums, _) in statistics.entries.items():
        shape = shapes.get(name)
        if shape is None:
            raise BadTensor(f"{statistics.path} has sums for {name}, a tensor that the model does not have.")
        matrices = int(np.prod(shape[:-2], dtype=np.int64))
        if sums.size != matrices * shape[-1]:
            raise BadTensor(
                f"{statistics.path} has {' x '.join(map(str, sums.shape))} sums for {name}, which has "
                f"{matrices} x {shape[-1]} columns; it was made from another model."
            )
