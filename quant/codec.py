"""Rows of float32 <-> bytes of a GGML type, with the checks that keep bad values out of a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant import kernels, libggml
from quant.errors import BadTensor
from quant.ggml_types import ggml_type

_F16_LIMIT = 65520.0  # from here on, rounding to F16 gives infinity


def quantize_rows(
    rows: NDArray[np.float32], type: str, imatrix: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Encode `rows` [n, columns]. Returns uint8 [n, row bytes]. `imatrix` holds one weight for each column."""
    kind = ggml_type(type)
    if rows.ndim != 2:
        raise BadTensor(f"Rows must be a matrix; the shape is {rows.shape}.")
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    row_bytes = kind.row_bytes(rows.shape[1])
    check_values(rows, type)
    if kind.name == "F32":
        return rows.view(np.uint8).reshape(len(rows), row_bytes)
    if imatrix is not None:
        imatrix = _checked_imatrix(imatrix, rows.shape[1])
    elif libggml.requires_imatrix(kind):
        raise BadTensor(f"{kind.name} needs an importance matrix.")
    if kind.name in kernels.available():
        return kernels.quantize(kind.name, rows, imatrix)
    out = np.empty((len(rows), row_bytes), np.uint8)
    libggml.quantize_chunk(kind, rows, out, imatrix)
    return out


def dequantize_rows(data: NDArray[np.uint8], type: str, columns: int) -> NDArray[np.float32]:
    """Decode bytes that hold whole rows of `columns` values. Returns float32 [n, columns]."""
    kind = ggml_type(type)
    row_bytes = kind.row_bytes(columns)
    data = np.ascontiguousarray(data, dtype=np.uint8).reshape(-1)
    if data.size % row_bytes:
        raise BadTensor(f"{data.size} bytes are not whole rows of {row_bytes} bytes.")
    out = np.empty((data.size // row_bytes, columns), np.float32)
    if kind.name == "F32":
        out[...] = data.view(np.float32).reshape(out.shape)
    else:
        libggml.dequantize(kind, data, out)
    return out


def check_values(rows: NDArray[np.float32], type: str) -> None:
    """NaN, infinity and values that overflow `type` are errors: llama.cpp would load them and answer nonsense."""
    if rows.size == 0:
        return
    with np.errstate(invalid="ignore"):
        low, high = float(rows.min()), float(rows.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        row = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise BadTensor(f"The weights contain NaN or infinity (first in row {row}).")
    if type.upper() == "F16" and max(-low, high) >= _F16_LIMIT:
        raise BadTensor(f"A weight of {max(-low, high):g} does not fit into F16 (at most 65504). Use BF16 or F32.")


def _checked_imatrix(imatrix: NDArray[np.float32], columns: int) -> NDArray[np.float32]:
    imatrix = np.ascontiguousarray(imatrix, dtype=np.float32)
    if imatrix.shape != (columns,):
        raise BadTensor(f"The importance matrix has shape {imatrix.shape}; rows have {columns} columns.")
    if not np.isfinite(imatrix).all():
        raise BadTensor("The importance matrix contains NaN or infinity.")
    return imatrix
