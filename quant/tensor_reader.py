"""Reads rows of a GGUF model's tensors as float32, a few at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows
from quant.errors import BrokenGGUF
from quant.ggml_types import ggml_type
from quant.gguf_file import GGUFMetadata, TensorInfo
from quant.positional_file import PositionalFile
from quant.splits import file_of
from quant.stream import Piece

FLOATS = ("F32", "F16", "BF16")


class TensorReader:
    """The rows of one model, from any thread. Read, not mapped: the source stays out of the resident memory."""

    def __init__(self, metadata: GGUFMetadata) -> None:
        self._metadata = metadata
        self._files = {path: PositionalFile(path) for path in {file_of(metadata, t) for t in metadata.tensors}}

    def rows(self, tensor: TensorInfo, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows of all matrices' rows together: float32 [len(indices), columns]."""
        encoded = [self._bytes(tensor, int(row), int(row) + 1) for row in indices]
        return dequantize_rows(np.concatenate(encoded), tensor.type, tensor.shape[-1])

    def pieces(self, tensor: TensorInfo, to: str) -> list[Piece]:
        """One for each matrix, to be written as type `to`."""
        n_rows = math.prod(tensor.shape[:-1])
        height = tensor.shape[-2] if len(tensor.shape) > 2 else n_rows
        return [self._piece(tensor, to, start, height) for start in range(0, n_rows, max(1, height))]

    def _piece(self, tensor: TensorInfo, to: str, start_row: int, n_rows: int) -> Piece:
        def encoded(first: int, last: int) -> NDArray[np.uint8]:
            return self._bytes(tensor, start_row + first, start_row + last)

        def read(first: int, last: int) -> NDArray[np.float32]:
            return dequantize_rows(encoded(first, last), tensor.type, tensor.shape[-1])

        # A second encoding would round a second time; floats are read for their check.
        copied = tensor.type == to and to not in FLOATS
        return Piece(n_rows, read, encoded=encoded if copied else None)

    def _bytes(self, tensor: TensorInfo, first: int, last: int) -> NDArray[np.uint8]:
        row_bytes = ggml_type(tensor.type).row_bytes(tensor.shape[-1])
        path = file_of(self._metadata, tensor)
        try:
            data = self._files[path].read_exactly(tensor.offset + first * row_bytes, (last - first) * row_bytes)
        except EOFError:
            raise BrokenGGUF(f"{path} ended inside tensor {tensor.name}; did it change while being read?") from None
        return np.frombuffer(data, np.uint8)
