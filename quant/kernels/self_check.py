"""Do the kernels give libggml's bytes on this machine? Asked once for each machine and build; the answer is kept."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant import libggml
from quant.ggml_types import ggml_type
from quant.kernels.library import KERNEL_TYPES, Library

_COLUMNS = 768


def trusted_types(library: Library, cache_folder: Path | None = None) -> tuple[str, ...]:
    """The types whose kernels agree with libggml. Read from the cache, or checked now (a tenth of a second)."""
    folder = _user_cache() if cache_folder is None else cache_folder
    path = folder / f"{_identity(library)}.json"
    known = _read(path)
    if known is None:
        known = tuple(name for name in KERNEL_TYPES if agrees(library, name))
        _write(path, known)
    return known


def agrees(library: Library, name: str) -> bool:
    """True when the fastest level of this CPU encodes every sample as libggml does."""
    kind = ggml_type(name)
    for rows in _samples():
        for imatrix in _imatrices():
            expected = np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
            libggml.quantize_chunk(kind, rows, expected, imatrix)
            if not np.array_equal(library.quantize(kind, rows, imatrix), expected):
                return False
    return True


def _samples() -> Iterator[NDArray[np.float32]]:
    """Weights as models have them, heavy tails, tiny and huge values, zeros and constants."""
    rng = np.random.default_rng(3)
    normal = rng.standard_normal((3, _COLUMNS)).astype(np.float32)
    yield normal * np.float32(0.02)
    yield rng.standard_t(2, (2, _COLUMNS)).astype(np.float32)
    sizes = np.exp(rng.uniform(-60, 10, (3, _COLUMNS // 32))).repeat(32, axis=1)
    yield (normal * sizes).astype(np.float32)
    edges = np.zeros((6, _COLUMNS), np.float32)
    edges[1] = 1
    edges[2] = -0.3
    edges[3] = np.abs(normal[0])
    edges[4] = -np.abs(normal[0])
    edges[5, 100:400] = normal[1, 100:400]
    yield edges


def _imatrices() -> Iterator[NDArray[np.float32] | None]:
    rng = np.random.default_rng(4)
    weights = rng.exponential(1, _COLUMNS).astype(np.float32)
    yield None
    yield weights
    yield np.where(rng.random(_COLUMNS) < 0.5, 0, weights).astype(np.float32)


def _identity(library: Library) -> str:
    """Changes with the kernels, with libggml and with the machine."""
    digest = hashlib.sha256()
    for path in (library.path, libggml.library_path()):
        digest.update(path.read_bytes())
    digest.update(" ".join((platform.node(), platform.machine(), platform.processor(), *library.levels)).encode())
    return digest.hexdigest()[:32]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interns1-local" / "kernels"


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        types = json.loads(path.read_text(encoding="utf-8"))["types"]
        return tuple(name for name in KERNEL_TYPES if name in types)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, types: tuple[str, ...]) -> None:
    """Without a writable cache the check simply runs again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump({"types": types}, file)
        os.replace(file.name, path)
    except OSError:
        pass
