"""The blob folder: files named by their sha256, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from interns1_local.errors import BadRequest, NotFound

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_CHUNK = 1 << 20
PARTIAL_SUFFIX = "-partial"


def check_digest(digest: str) -> str:
    """`sha256:` and 64 lower-case hex digits; anything else is refused, so a digest can never be a path."""
    if not _DIGEST.fullmatch(digest):
        raise BadRequest("invalid digest format")
    return "sha256:" + digest[7:].lower()


def digest_of_file(path: Path) -> str:
    """The digest that the file would have as a blob. It is read whole."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


class BlobWriter:
    """A blob in the making: hashed as it is written, named only by `commit`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix="interns1-", suffix=PARTIAL_SUFFIX)
        self._folder = folder
        self._file: IO[bytes] = os.fdopen(handle, "wb")
        self._hash = hashlib.sha256()
        self.path = Path(name)
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)

    def commit(self, expected: str | None = None) -> str:
        """Flush, check the digest, and give the file its name in one step. Returns the digest."""
        digest = "sha256:" + self._hash.hexdigest()
        if expected is not None and digest != check_digest(expected):
            raise BadRequest(f'digest mismatch, expected "{check_digest(expected)}", got "{digest}"')
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self.path, self._folder / digest.replace(":", "-"))
        return digest

    def discard(self) -> None:
        """Remove what is left of an unfinished blob; nothing after a commit."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        return self.folder / check_digest(digest).replace(":", "-")

    def digest_of(self, path: Path) -> str | None:
        """The digest of a blob by its path; None for a file that lies elsewhere."""
        return path.name.replace("-", ":", 1) if path.parent == self.folder else None

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def read(self, digest: str) -> bytes:
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is missing from the store; pull or create the model again") from None

    @contextlib.contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        writer = BlobWriter(self.folder)
        try:
            yield writer
        finally:
            writer.discard()

    def add(self, data: bytes | Iterable[bytes], expected: str | None = None) -> tuple[str, int]:
        """Store bytes; returns the digest and the size."""
        with self.writer() as writer:
            for chunk in [data] if isinstance(data, bytes) else data:
                writer.write(chunk)
            return writer.commit(expected), writer.size

    def add_file(self, path: Path, progress: Callable[[int], Any] | None = None) -> tuple[str, int]:
        """Copy a file of the user in; the copy cannot be changed behind our back, as a link could."""
        with path.open("rb") as source, self.writer() as writer:
            while chunk := source.read(_CHUNK):
                writer.write(chunk)
                if progress is not None:
                    progress(writer.size)
            return writer.commit(), writer.size

    def adopt(self, path: Path) -> tuple[str, int]:
        """Take over a finished file that lies on the same disk (a conversion's output), without a copy."""
        digest = digest_of_file(path)
        with path.open("r+b") as written:
            size = os.fstat(written.fileno()).st_size
            os.fsync(written.fileno())
        publish(path, self.path(digest))
        return digest, size

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = (entry.name for entry in self.folder.iterdir())
        return [check_digest(name) for name in names if _DIGEST.fullmatch(name)]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader or a crash sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".interns1-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def publish(source: Path, target: Path) -> None:
    """Give a finished file its name, and make the name itself durable."""
    # mkstemp makes files that only their owner reads; a store may be shared with an Ollama that runs as another user.
    source.chmod(0o644)
    os.replace(source, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
