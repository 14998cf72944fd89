"""Native kernels against libggml: millions of values a second on one thread, both measured in turns, and the ratio.

    python benchmarks/kernels.py                       every type, about 10 seconds
    python benchmarks/kernels.py --level avx2 Q4_K     one type at one CPU level

Noise on the machine hits both sides alike: the ratio is the result, the speeds are only context.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quant import libggml
from quant.ggml_types import ggml_type
from quant.kernels.library import KERNEL_TYPES, Library, installed

COLUMNS = 4096
# libggml gets fewer rows: a turn of each side takes about the same time.
OUR_ROWS, GGML_ROWS = 32, 6
TOTAL_ROWS = 128


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this thread: waiting for a neighbour's turn does not count."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def speeds(
    library: Library, name: str, level: str, rows: NDArray[np.float32], imatrix: NDArray[np.float32] | None, turns: int
) -> tuple[float, float, float]:
    """Best speed of ours and of libggml in Mvalues/s, and the median of the ratios of neighbouring turns."""
    kind = ggml_type(name)
    out = np.empty((GGML_ROWS, kind.row_bytes(COLUMNS)), np.uint8)
    ours, ggml = [], []
    for turn in range(turns):
        # Other rows each turn: on the same few again and again, branch prediction learns libggml's data by heart.
        many = np.roll(rows, -turn * OUR_ROWS, axis=0)[:OUR_ROWS]
        few = np.roll(rows, -turn * GGML_ROWS, axis=0)[:GGML_ROWS]
        ours.append(many.size / seconds(lambda: library.quantize(kind, many, imatrix, level)) / 1e6)  # noqa: B023
        ggml.append(few.size / seconds(lambda: libggml.quantize_chunk(kind, few, out, imatrix)) / 1e6)  # noqa: B023
    return max(ours), max(ggml), statistics.median(a / b for a, b in zip(ours, ggml, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=KERNEL_TYPES, help="default: all")
    parser.add_argument("--level", help="plain, avx2 or avx512; default: each that this CPU has")
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    library = installed()
    if library is None:
        print("The native kernels are not built here: pip install -e . builds them.", file=sys.stderr)
        return 1
    rng = np.random.default_rng(0)
    rows = (0.02 * rng.standard_normal((TOTAL_ROWS, COLUMNS))).astype(np.float32)
    weights = rng.exponential(1, COLUMNS).astype(np.float32)
    levels = [options.level] if options.level else library.levels
    print(f"{'type':7} {'imatrix':8} {'level':7} {'ours':>7} {'ggml':>7} {'ratio':>6}")
    for name in options.types:
        for label, imatrix in (("no", None), ("yes", weights)):
            for level in levels:
                ours, ggml, ratio = speeds(library, name.upper(), level, rows, imatrix, options.turns)
                print(f"{name:7} {label:8} {level:7} {ours:7.1f} {ggml:7.1f} {ratio:5.1f}x", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
