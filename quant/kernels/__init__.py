"""Our own encoders for the costly types: the bytes of libggml, several times faster.

They are C, compiled at install where the machine allows it and checked against libggml before their first use. A type
that is not in `available()` is left to libggml.
"""

from __future__ import annotations

import threading
import warnings

import numpy as np
from numpy.typing import NDArray

from quant.errors import UnknownType
from quant.ggml_types import ggml_type
from quant.kernels.library import KERNEL_TYPES, Library, installed
from quant.kernels.self_check import trusted_types

__all__ = ["available", "quantize"]

_lock = threading.Lock()
_found: tuple[Library | None, tuple[str, ...]] | None = None


def available() -> tuple[str, ...]:
    """The types that have a kernel here, proven to give libggml's bytes."""
    return _kernels()[1]


def quantize(
    type_name: str, rows: NDArray[np.float32], imatrix: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Encode `rows` [n, columns]. Returns uint8 [n, row bytes]. `imatrix` holds one weight for each column."""
    library, types = _kernels()
    kind = ggml_type(type_name)
    if library is None or kind.name not in types:
        raise UnknownType.named("native kernel", type_name, types)
    return library.quantize(kind, rows, imatrix)


def _kernels() -> tuple[Library | None, tuple[str, ...]]:
    global _found
    if _found is None:
        with _lock:
            if _found is None:
                _found = _checked(installed())
    return _found


def _checked(library: Library | None) -> tuple[Library | None, tuple[str, ...]]:
    if library is None:
        return None, ()
    types = trusted_types(library)
    if wrong := [name for name in KERNEL_TYPES if name not in types]:
        warnings.warn(
            f"The native kernels for {', '.join(wrong)} differ from libggml on this machine, so the slower libggml "
            "is used for them.",
            RuntimeWarning,
            stacklevel=2,
        )
    return library, types
