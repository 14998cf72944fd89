"""The journal beside a partial output: which of its tensors are complete, so that a stopped run continues.

The first line is the digest of the plan (sources, keys, tensors); then one line for each complete tensor. A tensor is
noted only after its bytes are on the disk, so the journal is right after a power cut too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

# How much finished work may be lost: forcing bytes to the disk costs time.
SYNC_BYTES = 256 << 20
SYNC_SECONDS = 5.0


class Journal:
    """`note` may be called from any thread. Without `sources` nothing is ever kept."""

    def __init__(self, path: Path, descriptor: int, header: bytes, sources: str | None) -> None:
        self.complete: frozenset[str] = frozenset()
        self._path = path
        self._descriptor = descriptor
        self._header = header
        self._active = sources is not None
        self._digest = hashlib.sha256(header + b"\0" + (sources or "").encode()).hexdigest()
        self._file: BinaryIO | None = None
        self._pending: list[str] = []
        self._pending_bytes = 0
        self._synced_at = time.monotonic()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    def resume(self, partial: int) -> bool:
        """Take over what an earlier run of the same plan noted. False when there is none."""
        if not self._active:
            return False
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was cut
            names = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return False
        os.lseek(partial, 0, os.SEEK_SET)
        if not names or names[0] != self._digest or os.read(partial, len(self._header)) != self._header:
            return False
        self.complete = frozenset(map(str, names[1:]))
        self._file = self._path.open("r+b")
        self._file.seek(sum(len(line) + 1 for line in lines))
        self._file.truncate()
        return True

    def start(self) -> None:
        """Begin anew."""
        if self._active:
            self._file = self._path.open("wb")
            self._append([self._digest])
        else:
            self._path.unlink(missing_ok=True)

    def note(self, name: str, n_bytes: int) -> None:
        """All bytes of a tensor were written."""
        if self._file is None:
            return
        with self._lock:
            self._pending.append(name)
            self._pending_bytes += n_bytes
            due = self._pending_bytes >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_SECONDS
        # Only one thread waits for the disk; the others go on.
        if due and self._flushing.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._flushing.release()

    def flush(self) -> bool:
        """Force what was noted to the disk. True when there is something worth keeping."""
        if self._file is None:
            return False
        with self._flushing:
            self._flush()
        return bool(self.complete)

    def _flush(self) -> None:
        with self._lock:
            names, self._pending, self._pending_bytes = self._pending, [], 0
            self._synced_at = time.monotonic()
        # A full disk is a reason to stop that must not be lost behind a second error.
        with contextlib.suppress(OSError):
            if names:
                os.fsync(self._descriptor)
                self._append(names)
                self.complete |= set(names)

    def close(self, *, keep: bool) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if not keep:
            self._path.unlink(missing_ok=True)

    def _append(self, names: list[str]) -> None:
        assert self._file is not None
        self._file.write(b"".join(json.dumps(name).encode() + b"\n" for name in names))
        self._file.flush()
        os.fsync(self._file.fileno())
