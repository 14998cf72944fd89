"""One writer of a folder at a time, among threads and among processes."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


class ProcessLock:
    """`with lock:` may be nested in one thread. Between processes it is a lock of the system, gone with its holder.

    Where the system has none (Windows), or the folder cannot be written, it holds between threads only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __enter__(self) -> None:
        self._threads.acquire()
        self._depth += 1
        if self._depth == 1:
            self._descriptor = _claim(self._path)

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._threads.release()


def _claim(path: Path) -> int:
    """An open file that is locked; -1 where that is not to be had."""
    try:
        import fcntl
    except ImportError:
        return -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return -1
    return descriptor
