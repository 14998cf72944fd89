"""Local files into the server's blob store, each only if it is not there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from interns1_local.commands.client import Client
from interns1_local.commands.progress import Advance

_CHUNK = 1 << 20


def upload(client: Client, files: Mapping[str, Path], advance: Advance) -> dict[str, str]:
    """Bring `files` to the server; the answer names each file's digest."""
    hashed = _meter("hashing files", files.values(), advance)
    digests = {name: _digest(path, hashed) for name, path in files.items()}
    missing = {digest: files[name] for name, digest in digests.items() if not client.exists(f"/api/blobs/{digest}")}
    copied = _meter("copying files", missing.values(), advance)
    for digest, path in missing.items():
        client.upload(f"/api/blobs/{digest}", _read(path, copied))
    return digests


def _digest(path: Path, count: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for chunk in _read(path, count):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _read(path: Path, count: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            count(len(chunk))
            yield chunk


def _meter(step: str, paths: Iterable[Path], advance: Advance) -> Callable[[int], None]:
    """One bar over all files."""
    total = sum(path.stat().st_size for path in paths)
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        advance(step, done, total)

    return count
