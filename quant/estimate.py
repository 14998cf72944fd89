"""How long a run will take: each pair of types is tried for a moment on this machine."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows, quantize_rows
from quant.ggml_types import ggml_type
from quant.libggml import requires_imatrix
from quant.stream import worker_count

_COLUMNS = 4096  # a multiple of every type's block
_FIRST_ROWS, _MOST_ROWS = 1, 256
_ENOUGH_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """`n_values` numbers that are read as one type and written as another. The same type is a copy."""

    source: str
    target: str
    n_values: int


def seconds(work: Iterable[Work], jobs: int) -> float:
    """Time of computing with `jobs` threads (0: one for each processor). Waits for a disk or a network come on top."""
    values: Counter[tuple[str, str]] = Counter()
    for each in work:
        # Copying costs next to nothing beside the disk.
        if each.source != each.target:
            values[each.source, each.target] += each.n_values
    threads = min(worker_count(jobs), os.cpu_count() or 1)
    return sum(count * _seconds_a_value(*types) for types, count in values.items() if count) / threads


def _seconds_a_value(source: str, target: str) -> float:
    """Decoding and encoding of made-up weights, measured on growing samples until one takes long enough."""
    # The first use of a type may fill libggml's tables, which takes seconds.
    _encode(np.zeros((1, 256), np.float32), target)
    n_rows = _FIRST_ROWS
    while True:
        rows = np.random.default_rng(0).standard_normal((n_rows, _COLUMNS), np.float32)
        data = _encode(rows, source)
        started = time.perf_counter()
        _encode(dequantize_rows(data, source, _COLUMNS), target)
        spent = time.perf_counter() - started
        if spent >= _ENOUGH_SECONDS or n_rows >= _MOST_ROWS:
            return spent / rows.size
        n_rows *= 4


def _encode(rows: NDArray[np.float32], type: str) -> NDArray[np.uint8]:
    needy = requires_imatrix(ggml_type(type))
    return quantize_rows(rows, type, np.ones(rows.shape[1], np.float32) if needy else None)
