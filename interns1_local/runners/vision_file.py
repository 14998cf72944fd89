"""The vision file that a worker opens: the stored one, or a copy whose position rows suit the llama.cpp in use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from interns1_local.engine.vision_order import build_order
from interns1_local.errors import InternS1Error, LoadError
from interns1_local.store.mmproj_repair import Order, reorder, stored_order
from quant.errors import QuantError
from quant.gguf_file import read_metadata

FOLDER = "vision"
_KEPT_SECONDS = 30 * 86400.0


@contextlib.contextmanager
def fitting_vision_file(path: Path | None, cache_folder: Path, computed: Order | None = None) -> Iterator[Path | None]:
    """A file with the towers of `path` in the order that llama.cpp computes; it need not outlive the block.

    Copies are kept in `cache_folder` for the next time. Where that cannot be written, or is full, the copy is
    temporary.

    Args:
        path: None, which is given back, for models without vision.
        computed: the order of llama.cpp, which is measured when it is not given.
    """
    if path is None:
        yield None
        return
    stored = _stored_order(path)
    computed = computed or (None if stored is None else build_order(cache_folder))
    if stored is None or computed is None or stored == computed:
        yield path
        return
    kept = _kept_copy(path, cache_folder / FOLDER, computed)
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="interns1-") as folder:
        copy = Path(folder) / "mmproj.gguf"
        _make(path, copy, computed)
        yield copy


def _stored_order(path: Path) -> Order | None:
    try:
        return stored_order(read_metadata(path, arrays=False))
    except (QuantError, OSError) as error:
        raise LoadError(f"cannot read {path}: {error}") from error


def _kept_copy(path: Path, folder: Path, order: Order) -> Path | None:
    """The copy of an earlier time or a new one; None when there is no place for it."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {order}"
    copy = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}.gguf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _forget_old(folder)
        with contextlib.suppress(LoadError):
            if copy.is_file() and _stored_order(copy) == order:
                os.utime(copy)
                return copy
        _make(path, copy, order)
    except (OSError, LoadError) as error:
        print(f"no copy of {path} can be kept in {folder}: {error}", file=sys.stderr, flush=True)
        return None
    return copy


def _make(path: Path, copy: Path, order: Order) -> None:
    place = "last" if order == "cls_last" else "first"
    print(
        f"{path}: its position rows are not in llama.cpp's order; a copy has the class token {place}", file=sys.stderr
    )
    # Two workers may do this at once: each writes its own, the last one stays.
    partial = copy.with_name(f"{copy.stem}-{os.getpid()}.gguf")
    try:
        reorder(path, partial, order)
        os.replace(partial, copy)
    except (InternS1Error, OSError) as error:
        raise LoadError(f"the vision file {path} cannot be repaired: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _forget_old(folder: Path) -> None:
    oldest = time.time() - _KEPT_SECONDS
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
