"""A file read at positions, from any thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class PositionalFile:
    """Opened at the first reading, closed with `close` or with its last reference."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def read(self, start: int, n_bytes: int) -> bytes:
        """Up to `n_bytes` from `start` on; fewer when the system gives fewer, none at the end of the file."""
        descriptor = self._open()
        if hasattr(os, "pread"):
            return os.pread(descriptor, n_bytes, start)
        with self._lock:
            os.lseek(descriptor, start, os.SEEK_SET)
            return os.read(descriptor, n_bytes)

    def read_exactly(self, start: int, n_bytes: int) -> bytes:
        """Raises EOFError when the file ends before."""
        parts: list[bytes] = []
        missing = n_bytes
        while missing:
            part = self.read(start + n_bytes - missing, missing)
            if not part:
                raise EOFError(self.path)
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            return self._descriptor
