"""Blobs from the network: parts in parallel, resumed after any stop, checked, and only then given their name.

Beside the bytes lies a small file that says how far each part is. It is written after the bytes are on the disk.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from interns1_local.errors import InternS1Error
from interns1_local.store.blobs import PARTIAL_SUFFIX, BlobStore, digest_of_file, publish, write_atomically
from interns1_local.store.remote import RemoteError
from quant.file_claim import claim

PART_BYTES = 64 << 20
STREAMS = 4
ATTEMPTS = 6  # in a row without a single new byte
LONGEST_WAIT = 30.0
REPORT_SECONDS = 0.06
SAVE_SECONDS = 2.0

_RETRY = (408, 425, 429, 500, 502, 503, 504)
_running: dict[Path, _Download] = {}
_running_lock = threading.Lock()

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob by its digest, its size in bytes and where its bytes are."""

    digest: str
    size: int
    url: str


def fetch_blob(
    blobs: BlobStore,
    blob: RemoteBlob,
    client: httpx.Client,
    report: Report | None = None,
    *,
    part_bytes: int = PART_BYTES,
    sleep: Callable[[float], object] | None = None,
) -> None:
    """Bring `blob` into the store. `report` is told the bytes that are there; they never become fewer.

    Whoever asks for a blob that is already on its way shares that download. When `report` raises, the download stops
    and its parts are kept for the next time.
    """
    report = report or (lambda completed: None)
    path = blobs.path(blob.digest)
    while not path.is_file():
        with _running_lock:
            download = _running.get(path)
            mine = download is None
            if download is None:
                download = _running[path] = _Download(blobs, blob, client, part_bytes, sleep)
        if not mine:
            while not download.ended.wait(REPORT_SECONDS):
                report(download.completed)
            continue
        try:
            download.run(report)
        finally:
            with _running_lock:
                del _running[path]
            download.ended.set()
    report(blob.size)


@dataclass(slots=True)
class _Part:
    start: int
    size: int
    done: int = 0


class _NoRanges(Exception):
    """The other side sends the whole file whatever part it is asked for."""


class _Download:
    """One blob on its way. `run` belongs to the thread that started it; others may read `completed`."""

    def __init__(
        self,
        blobs: BlobStore,
        blob: RemoteBlob,
        client: httpx.Client,
        part_bytes: int,
        sleep: Callable[[float], object] | None,
    ) -> None:
        self.ended = threading.Event()
        self.completed = 0
        self._blobs = blobs
        self._blob = blob
        self._client = client
        self._part_bytes = max(1, part_bytes)
        self._stop = threading.Event()
        self._sleep = sleep or self._stop.wait
        stem = f"interns1-{blob.digest.removeprefix('sha256:')}"
        self._partial = blobs.folder / f"{stem}{PARTIAL_SUFFIX}"
        self._state = blobs.folder / f"{stem}.parts{PARTIAL_SUFFIX}"
        self._parts: list[_Part] = []
        self._ranges = True
        self._descriptor = -1
        self._write_lock = threading.Lock()

    def run(self, report: Report) -> None:
        self._blobs.folder.mkdir(parents=True, exist_ok=True)
        with self._opened(report) as is_ours:
            if not is_ours:
                return
            self._check_room()
            self._load()
            try:
                self._transfer(report)
            except _NoRanges:
                self._ranges = False
                self._parts = [_Part(0, self._blob.size)]
                self._transfer(report)
            self._verify()
            publish(self._partial, self._blobs.path(self._blob.digest))
            self._state.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, report: Report) -> Iterator[bool]:
        """The partial file, held against other processes. False when one of them has brought the blob meanwhile."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(self._partial, flags, 0o644)
        try:
            while not claim(self._descriptor, self._partial):
                if self._blobs.has(self._blob.digest):
                    yield False
                    return
                report(self.completed)
                time.sleep(REPORT_SECONDS)
                os.close(self._descriptor)
                self._descriptor = os.open(self._partial, flags, 0o644)
            yield True
        finally:
            os.close(self._descriptor)

    def _check_room(self) -> None:
        taken = getattr(os.fstat(self._descriptor), "st_blocks", 0) * 512
        free = shutil.disk_usage(self._blobs.folder).free + taken
        if free < self._blob.size:
            raise InternS1Error(
                f"{self._blob.digest} needs {self._blob.size / 1e9:.2f} GB; {self._blobs.folder} has "
                f"{free / 1e9:.2f} GB free. Make room and pull again: what was downloaded is kept"
            )

    def _load(self) -> None:
        """The parts as an earlier run left them, or none done."""
        size = self._blob.size
        self._parts = [_Part(s, min(self._part_bytes, size - s)) for s in range(0, size, self._part_bytes)]
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            state = json.loads(self._state.read_bytes())
            parts = [_Part(int(start), int(length), int(done)) for start, length, done in state["parts"]]
            whole = sum(part.size for part in parts) == size and all(0 <= part.done <= part.size for part in parts)
            follow = all(b.start == a.start + a.size for a, b in itertools.pairwise(parts))
            if state["size"] == size and whole and follow and (not parts or parts[0].start == 0):
                self._parts = parts

    def _save(self) -> None:
        parts = [[part.start, part.size, part.done] for part in self._parts]
        os.fsync(self._descriptor)
        write_atomically(self._state, json.dumps({"size": self._blob.size, "parts": parts}).encode())

    def _transfer(self, report: Report) -> None:
        self._stop.clear()
        waiting = iter([part for part in self._parts if part.done < part.size])
        lock, errors = threading.Lock(), list[BaseException]()

        def work() -> None:
            try:
                while not self._stop.is_set():
                    with lock:
                        part = next(waiting, None)
                    if part is None:
                        return
                    self._complete(part)
            except BaseException as error:
                errors.append(error)
                self._stop.set()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(STREAMS, len(self._parts)))]
        for thread in threads:
            thread.start()
        try:
            self._watch(threads, report)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            if self._ranges:
                self._save()
        if errors:
            raise errors[0]

    def _watch(self, threads: list[threading.Thread], report: Report) -> None:
        saved = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(REPORT_SECONDS) if threads[0].is_alive() else time.sleep(REPORT_SECONDS / 4)
            # A part that had to begin anew may not take the figure back.
            self.completed = max(self.completed, sum(part.done for part in self._parts))
            report(self.completed)
            if self._ranges and time.monotonic() - saved > SAVE_SECONDS:
                self._save()
                saved = time.monotonic()

    def _complete(self, part: _Part) -> None:
        failures = 0
        while part.done < part.size and not self._stop.is_set():
            before = part.done
            try:
                self._stream(part)
            except (httpx.TransportError, httpx.StreamError, _Retry) as error:
                failures = failures + 1 if part.done <= before else 1
                if failures >= ATTEMPTS:
                    raise RemoteError(
                        f"max retries exceeded: {self._blob.url}: {error or type(error).__name__}"
                    ) from error
                self._sleep(min(2.0**failures / 2, LONGEST_WAIT))

    def _stream(self, part: _Part) -> None:
        """Ask for what is missing of a part and write it as it comes."""
        if not self._ranges:
            part.done = 0
        first, last = part.start + part.done, part.start + part.size - 1
        headers = {"accept-encoding": "identity"}
        if self._ranges:
            headers["range"] = f"bytes={first}-{last}"
        with self._client.stream("GET", self._blob.url, headers=headers) as response:
            self._check(response, first)
            # As they come: a larger piece would be lost with the connection that it waits for.
            for data in response.iter_raw():
                data = data[: part.size - part.done]
                self._write(data, part.start + part.done)
                part.done += len(data)
                if self._stop.is_set() or part.done == part.size:
                    return
        if part.done < part.size:
            raise _Retry("the connection ended early")

    def _check(self, response: httpx.Response, first: int) -> None:
        status = response.status_code
        if status in _RETRY:
            raise _Retry(f"status {status}")
        if status == 206:
            expected = f"bytes {first}-"
            given = response.headers.get("content-range", "")
            if not given.startswith(expected) or given.rpartition("/")[2] not in (str(self._blob.size), "*"):
                raise RemoteError(f"{self._blob.url}: asked for bytes from {first}, got {given or 'no Content-Range'}")
            return
        if status == 200:
            if self._ranges and (len(self._parts) > 1 or first > 0):
                raise _NoRanges
            return
        raise RemoteError(f"{self._blob.url}: status {status}; {_hint(status)}")

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        try:
            if hasattr(os, "pwrite"):
                while view:
                    written = os.pwrite(self._descriptor, view, offset)
                    view, offset = view[written:], offset + written
                return
            with self._write_lock:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                while view:
                    view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            reason = error.strerror or str(error)
            raise InternS1Error(
                f"writing the download failed: {reason}; what came is kept for the next pull"
            ) from error

    def _verify(self) -> None:
        digest = digest_of_file(self._partial)
        if digest != self._blob.digest:
            self._partial.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)
            raise RemoteError(f"digest mismatch, file must be downloaded again: want {self._blob.digest}, got {digest}")


class _Retry(Exception):
    """Worth another attempt."""


def _hint(status: int) -> str:
    if status in (401, 403):
        return "it asks for an account, or the account has no right to it"
    return "it is not there any more; pull again for a new list" if status in (404, 410) else "try again later"
