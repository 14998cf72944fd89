"""The compiled kernels: where they are, which CPU levels they have here, and the call itself.

`quant/kernels/native` holds the C source; setup.py builds it at install. Calls release the GIL.
"""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.errors import BadTensor, NativeLibraryError
from quant.ggml_types import GGMLType

# The types that have a kernel.
KERNEL_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")

# The numbers dispatch.c gives the CPU levels, slowest first.
_LEVELS = {"plain": 0, "avx2": 1, "avx512": 2}


class Library:
    """One build of the kernels. `levels`: what this CPU can run, slowest first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            library = ctypes.CDLL(str(path))
            has_level, self._quantize = library.interns1_kernels_has_level, library.interns1_kernels_quantize
        except (OSError, AttributeError) as error:
            raise NativeLibraryError(f"{path} cannot be used: {error}") from None
        has_level.argtypes, has_level.restype = (ctypes.c_int,), ctypes.c_int
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._quantize.argtypes = (ctypes.c_int, ctypes.c_int, pointer, number, number, pointer, pointer)
        self._quantize.restype = number
        self.levels = tuple(name for name, level in _LEVELS.items() if has_level(level))

    def quantize(
        self, kind: GGMLType, rows: NDArray[np.float32], imatrix: NDArray[np.float32] | None = None, level: str = ""
    ) -> NDArray[np.uint8]:
        """Encode `rows` [n, columns] with one weight for each column, at a CPU level (default: the fastest)."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        out = np.empty((rows.shape[0], kind.row_bytes(rows.shape[1])), np.uint8)
        if out.size == 0:
            return out
        weights = None
        if imatrix is not None:
            imatrix = np.ascontiguousarray(imatrix, dtype=np.float32)
            if imatrix.shape != (rows.shape[1],):
                raise BadTensor(f"The importance matrix has shape {imatrix.shape}; rows have {rows.shape[1]} columns.")
            weights = imatrix.ctypes.data
        number = _LEVELS[level or self.levels[-1]]
        written = self._quantize(number, kind.id, rows.ctypes.data, *rows.shape, weights, out.ctypes.data)
        if written != out.nbytes:
            raise NativeLibraryError(f"{self.path} has no kernel for {kind.name}.")
        return out


def installed(folder: Path = Path(__file__).parent) -> Library | None:
    """The library built at install; None where there is none or it cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.is_file():
            try:
                return Library(path)
            except NativeLibraryError:
                return None
    return None
