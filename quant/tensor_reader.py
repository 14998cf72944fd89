"""Reads rows of a GGUF model's tensors as float32, a few at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows
from quant.ggml_types import ggml_type
from quant.gguf_file import GGUFMetadata, TensorInfo
from quant.splits import file_of
from quant.stream import Piece

FLOATS = ("F32", "F16", "BF16")


class TensorReader:
    """The rows of one model, from any thread."""

    def __init__(self, metadata: GGUFMetadata) -> None:
        self._metadata = metadata
        paths = {file_of(metadata, tensor) for tensor in metadata.tensors}
        self._maps: dict[Path, NDArray[np.uint8]] = {path: np.memmap(path, np.uint8, "r") for path in paths}

    def rows(self, tensor: TensorInfo, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows of all matrices' rows together: float32 [len(indices), columns]."""
        encoded = self._bytes(tensor).reshape(math.prod(tensor.shape[:-1]), -1)
        return dequantize_rows(encoded[indices], tensor.type, tensor.shape[-1])

    def pieces(self, tensor: TensorInfo, to: str) -> list[Piece]:
        """One for each matrix, to be written as type `to`."""
        n_rows = math.prod(tensor.shape[:-1])
        height = tensor.shape[-2] if len(tensor.shape) > 2 else n_rows
        return [self._piece(tensor, to, start, height) for start in range(0, n_rows, max(1, height))]

    def _piece(self, tensor: TensorInfo, to: str, start_row: int, n_rows: int) -> Piece:
        columns = tensor.shape[-1]
        row_bytes = ggml_type(tensor.type).row_bytes(columns)
        source = self._bytes(tensor)[start_row * row_bytes :]

        def encoded(first: int, last: int) -> NDArray[np.uint8]:
            return source[first * row_bytes : last * row_bytes]

        def read(first: int, last: int) -> NDArray[np.float32]:
            return dequantize_rows(encoded(first, last), tensor.type, columns)

        # A second encoding would round a second time; floats are read for their check.
        copied = tensor.type == to and to not in FLOATS
        return Piece(n_rows, read, encoded=encoded if copied else None)

    def _bytes(self, tensor: TensorInfo) -> NDArray[np.uint8]:
        return self._maps[file_of(self._metadata, tensor)][tensor.offset : tensor.offset + tensor.n_bytes]
