"""A folder of files, each with the keys and values of one sequence, so that a model that is loaded anew need not
compute them again. Several workers may share the folder; every file is checked before anything is made of it.

A file is `magic, fingerprint, number of ids, number of bytes, sha256 of the ids, sha256 of all that`, then the ids as
int64, then the bytes, all little-endian. Its name begins with its fingerprint's, its time is that of its last use.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from interns1_local.engine.prefix_cache import common_prefix
from interns1_local.engine.sequence import Keys

MAGIC = b"I1SKV001"
MAX_KEYS = 2**24
SUFFIX = ".kv"
STALE_SECONDS = 3600.0
_HEADER = struct.Struct("<8s32sQQ32s32s")

Data = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class StoredPrefix:
    """A file that holds `keys`."""

    path: Path
    keys: Keys


class PrefixFiles:
    """The files of one fingerprint in `folder`, which together with all others there take at most `max_bytes`."""

    def __init__(self, folder: Path, fingerprint: bytes, max_bytes: int) -> None:
        """`fingerprint`: 32 bytes that stand for everything that keys and values depend on besides the ids."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes
        self._known: dict[str, StoredPrefix] = {}
        self._seen_at = -1
        # One thread writes files, another looks them up.
        self._lock = threading.Lock()

    def longest(self, keys: Keys) -> tuple[StoredPrefix | None, int]:
        """The file with the longest common beginning, of equals the shortest, and the length of that beginning."""
        best, length = None, 0
        for entry in self._look():
            common = common_prefix(entry.keys, keys)
            if common > length or (best is not None and common == length and len(entry.keys) < len(best.keys)):
                best, length = entry, common
        return best, length

    def read(self, entry: StoredPrefix) -> Data | None:
        """The bytes stored with `entry`; None, and the file gone, when it is not what it was when it was written."""
        try:
            with _open(entry.path) as file:
                keys, n_bytes, digest, head = _read_head(file, self._fingerprint)
                data = np.fromfile(file, np.uint8, n_bytes)
            if len(data) == n_bytes and _digest(head, data) == digest and np.array_equal(keys, entry.keys):
                with suppress(OSError):
                    os.utime(entry.path)
                return data
        except (OSError, ValueError):
            pass
        self._remove(entry.path)
        return None

    def remove(self, entry: StoredPrefix) -> None:
        """Of what nobody can use."""
        self._remove(entry.path)

    def holds(self, keys: Keys) -> bool:
        """Whether a file holds all of `keys`; then it counts as used."""
        entry, length = self.longest(keys)
        if entry is None or length < len(keys):
            return False
        with suppress(OSError):
            os.utime(entry.path)
        return True

    def write(self, keys: Keys, data: Data) -> bool:
        """Store `keys` and their bytes, unless a file holds them or they are larger than the folder may be. Files
        that hold less of the same go, and then the least recently used ones as the size demands."""
        size = _HEADER.size + 8 * len(keys) + data.nbytes
        if not len(keys) or size > self._max_bytes or self.holds(keys):
            return False
        ids = keys.astype("<i8").tobytes()
        ids_digest = hashlib.sha256(ids).digest()
        head = struct.pack("<8s32sQQ32s", MAGIC, self._fingerprint, len(keys), data.nbytes, ids_digest)
        path = self._folder / f"{self._fingerprint.hex()[:16]}-{ids_digest.hex()[:32]}{SUFFIX}"
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        try:
            with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
                file.write(head + _digest(head, data) + ids)
                data.tofile(file)
            os.replace(partial, path)
        except OSError:
            # A full disk costs speed, not answers.
            self._remove(partial)
            return False
        for entry in self._look():
            if entry.path != path and common_prefix(entry.keys, keys) == len(entry.keys):
                self._remove(entry.path)
        self._trim()
        return True

    def _look(self) -> list[StoredPrefix]:
        """What is in the folder now."""
        with self._lock:
            with suppress(OSError):
                changed = self._folder.stat().st_mtime_ns
                if changed != self._seen_at:
                    self._read_names({entry.name for entry in os.scandir(self._folder)})
                    self._seen_at = changed
            return list(self._known.values())

    def _read_names(self, names: set[str]) -> None:
        prefix = self._fingerprint.hex()[:16]
        wanted = {name for name in names if name.startswith(prefix) and name.endswith(SUFFIX)}
        for name in self._known.keys() - wanted:
            del self._known[name]
        for name in sorted(wanted - self._known.keys()):
            path = self._folder / name
            with suppress(OSError, ValueError), _open(path) as file:
                self._known[name] = StoredPrefix(path, _read_head(file, self._fingerprint)[0])

    def _trim(self) -> None:
        """Remove the least recently used files, of whatever fingerprint, until all fit; and what was left half made."""
        found = []
        with suppress(OSError):
            for entry in os.scandir(self._folder):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(SUFFIX) and stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime_ns, status.st_size, entry.name))
                    elif f"{SUFFIX}." in entry.name and time.time() - status.st_mtime > STALE_SECONDS:
                        self._remove(self._folder / entry.name)
        total = sum(size for _, size, _ in found)
        for _, size, name in sorted(found):
            if total <= self._max_bytes:
                return
            self._remove(self._folder / name)
            total -= size

    def _remove(self, path: Path) -> None:
        with self._lock:
            self._known.pop(path.name, None)
        with suppress(OSError):
            path.unlink()


def _open(path: Path) -> BinaryIO:
    """A plain file of our own that nobody else can write; OSError otherwise."""
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb")
    status = os.fstat(file.fileno())
    ours = not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    if not stat.S_ISREG(status.st_mode) or not ours:
        file.close()
        raise OSError(f"{path} is not a file of this user alone")
    return file


def _read_head(file: BinaryIO, fingerprint: bytes) -> tuple[Keys, int, bytes, bytes]:
    """(ids, number of bytes after them, digest, what the digest covers besides the bytes). ValueError when it is not
    what it should be."""
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        raise ValueError("too short")
    magic, found, n_keys, n_bytes, ids_digest, digest = _HEADER.unpack(data)
    size = os.fstat(file.fileno()).st_size
    if magic != MAGIC or found != fingerprint or n_keys > MAX_KEYS or size != _HEADER.size + 8 * n_keys + n_bytes:
        raise ValueError("another header")
    ids = file.read(8 * n_keys)
    if hashlib.sha256(ids).digest() != ids_digest:
        raise ValueError("other ids")
    return np.frombuffer(ids, "<i8").astype(np.int64), n_bytes, digest, data[: _HEADER.size - 32]


def _digest(head: bytes, data: Data) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(data.data)
    return digest.digest()
