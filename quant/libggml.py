"""The only door to libggml-base, the C library of llama-cpp-python. `llama_cpp` itself is never imported.

Every call releases the GIL, so threads quantize side by side.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.errors import NativeLibraryError
from quant.ggml_types import GGMLType

_FLOAT_P = ctypes.POINTER(ctypes.c_float)
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, _FLOAT_P, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


def library_names(platform: str = sys.platform) -> tuple[str, ...]:
    """File names to look for, best first. With the ABI number it is the copy that libllama itself loads."""
    if platform == "darwin":
        return ("libggml-base.0.dylib", "libggml-base.dylib")
    if platform == "win32":
        return ("ggml-base.dll", "libggml-base.dll")
    return ("libggml-base.so.0", "libggml-base.so")


def library_path() -> Path:
    """Where llama-cpp-python keeps libggml-base."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise NativeLibraryError("llama-cpp-python is not installed; install it with: pip install llama-cpp-python")
    package = Path(next(iter(spec.submodule_search_locations)))
    folders = [package / "lib", package.parent / "lib", package.parent / "bin"]
    for folder in folders:
        for name in library_names():
            if (folder / name).is_file():
                return folder / name
    looked = ", ".join(map(str, folders))
    raise NativeLibraryError(f"No {library_names()[0]} in {looked}. Reinstall llama-cpp-python.")


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if sys.platform == "win32":
        os.add_dll_directory(str(path.parent))
    try:
        library = ctypes.CDLL(str(path))
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
        library.ggml_quantize_chunk.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        )
        library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        library.ggml_get_type_traits.argtypes = (ctypes.c_int,)
        library.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        library.ggml_quantize_requires_imatrix.argtypes = (ctypes.c_int,)
        library.ggml_bf16_to_fp32_row.restype = None
        library.ggml_bf16_to_fp32_row.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        library.ggml_fp16_to_fp32_row.restype = None
        library.ggml_fp16_to_fp32_row.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    except (OSError, AttributeError) as error:
        raise NativeLibraryError(f"{path} cannot be used: {error}") from None
    return library


@functools.cache
def _decoder(kind: GGMLType) -> Callable[..., None]:
    traits = _library().ggml_get_type_traits(kind.id).contents
    if (traits.block_size, traits.type_size) != (kind.block_size, kind.block_bytes):
        raise NativeLibraryError(
            f"The installed libggml stores {kind.name} differently; this needs llama-cpp-python 0.3.36."
        )
    if not traits.to_float:
        raise NativeLibraryError(f"libggml cannot decode {kind.name}.")
    return _TO_FLOAT(traits.to_float)


def requires_imatrix(kind: GGMLType) -> bool:
    """True when libggml refuses to encode this type without an importance matrix."""
    return bool(_library().ggml_quantize_requires_imatrix(kind.id))


def quantize_chunk(
    kind: GGMLType, rows: NDArray[np.float32], out: NDArray[np.uint8], imatrix: NDArray[np.float32] | None
) -> None:
    """Encode contiguous float32 `rows` [n, columns] into `out` [n, row_bytes]."""
    n_rows, n_columns = rows.shape
    weights = None if imatrix is None else imatrix.ctypes.data
    written = _library().ggml_quantize_chunk(kind.id, rows.ctypes.data, out.ctypes.data, 0, n_rows, n_columns, weights)
    if written != out.nbytes:
        raise NativeLibraryError(f"libggml wrote {written} bytes of {kind.name} where {out.nbytes} were expected.")


def dequantize(kind: GGMLType, data: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    """Decode contiguous `data` into contiguous `out`."""
    _decoder(kind)(data.ctypes.data, out.ctypes.data_as(_FLOAT_P), out.size)


def bf16_to_f32(data: NDArray[np.uint16]) -> NDArray[np.float32]:
    out = np.empty(data.shape, np.float32)
    _library().ggml_bf16_to_fp32_row(data.ctypes.data, out.ctypes.data, out.size)
    return out


def f16_to_f32(data: NDArray[np.float16] | NDArray[np.uint16]) -> NDArray[np.float32]:
    out = np.empty(data.shape, np.float32)
    _library().ggml_fp16_to_fp32_row(data.ctypes.data, out.ctypes.data, out.size)
    return out
