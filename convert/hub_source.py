"""A checkpoint on the Hugging Face hub, read by byte ranges while it is converted. Nothing is kept on the disk."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from convert.errors import BrokenCheckpoint, HubError

# Rows are asked for in small blocks; the hub is asked for large ones.
CHUNK_BYTES = 8 << 20
CHUNKS_KEPT = 16
SMALL_READ = 256 << 10

_ATTEMPTS = 8  # without a single new byte
_LONGEST_WAIT = 30.0
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")


@dataclass(slots=True)
class _Chunk:
    lock: threading.Lock = field(default_factory=threading.Lock)
    data: bytes | None = None


class HubSource:
    """owner/repo[@revision], pinned to the commit that the revision names when it is opened."""

    scheme = "hf"

    def __init__(self, where: str, *, sleep: Callable[[float], None] | None = None) -> None:
        found = _REPOSITORY.fullmatch(where)
        if found is None:
            write = f"write {self.scheme}:owner/repo or {self.scheme}:owner/repo@revision"
            raise HubError(f"{self.scheme}:{where} is not a repository; {write}.")
        self._repository, revision = found[1], found[2]
        self.label = Path(f"{self.scheme}:{where}")
        self.name = self._repository.rpartition("/")[2]
        self._sleep = sleep or time.sleep
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], _Chunk] = OrderedDict()
        self._client = self._open_client()
        try:
            self._commit, self._sizes = self._look_up(revision)
        except BaseException:
            self._client.close()
            raise

    def files(self) -> list[str]:
        return sorted(self._sizes)

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def stamp(self, file: str) -> str:
        return f"{self._repository} {self._commit} {file} {self._sizes[file]}"

    def read(self, file: str, start: int, n_bytes: int) -> bytes:
        n_bytes = min(n_bytes, self._sizes[file] - start)
        if n_bytes <= 0:
            return b""
        index, offset = divmod(start, CHUNK_BYTES)
        # A read that begins with a later chunk is the rest of a larger read.
        if n_bytes <= SMALL_READ and (offset or not index) and (file, index) not in self._chunks:
            return self._download(file, start, n_bytes)
        return self._chunk(file, index)[offset : offset + n_bytes]

    def close(self) -> None:
        self._client.close()
        self._chunks.clear()

    def _chunk(self, file: str, index: int) -> bytes:
        """Neighbours that need the same chunk wait for one download."""
        with self._lock:
            chunk = self._chunks.setdefault((file, index), _Chunk())
            self._chunks.move_to_end((file, index))
            while len(self._chunks) > CHUNKS_KEPT:
                self._chunks.popitem(last=False)
        with chunk.lock:
            if chunk.data is None:
                start = index * CHUNK_BYTES
                chunk.data = self._download(file, start, min(CHUNK_BYTES, self._sizes[file] - start))
            return chunk.data

    def _download(self, file: str, start: int, n_bytes: int) -> bytes:
        """Exactly these bytes, over as many connections as it takes."""
        data = bytearray()
        failures = 0
        while len(data) < n_bytes:
            before = len(data)
            try:
                self._receive(file, start, n_bytes, data)
                problem = "the connection ended early"
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            except _Busy as error:
                problem = str(error)
            if len(data) >= n_bytes:
                break
            failures = 0 if len(data) > before else failures + 1
            if failures >= _ATTEMPTS:
                raise HubError(
                    f"Reading {self.label / file} failed {failures} times: {problem}. "
                    "Run the same command again to continue."
                )
            self._sleep(min(_LONGEST_WAIT, 0.5 * 2**failures))
        return bytes(data)

    def _receive(self, file: str, start: int, n_bytes: int, data: bytearray) -> None:
        first, last = start + len(data), start + n_bytes - 1
        headers = {"Range": f"bytes={first}-{last}"}
        with self._client.stream("GET", self._url(file), headers=headers) as response:
            if response.status_code == 429 or response.status_code >= 500:
                raise _Busy(f"the hub answered {response.status_code}")
            if response.status_code != 206:
                raise HubError(f"The hub answered {response.status_code} for {self.label / file}{_hint(response)}.")
            expected = f"bytes {first}-{last}/{self._sizes[file]}"
            if response.headers.get("content-range") != expected:
                given = response.headers.get("content-range")
                raise BrokenCheckpoint(f"{self.label / file}: the hub sent {given!r} where {expected!r} was asked for.")
            for part in response.iter_raw():
                data += part[: n_bytes - len(data)]

    def _open_client(self) -> httpx.Client:
        return _client()

    def _look_up(self, revision: str | None) -> tuple[str, dict[str, int]]:
        return _look_up(self._repository, revision)

    def _url(self, file: str) -> str:
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(self._repository, file, revision=self._commit, endpoint=_endpoint())
        return url


class _Busy(Exception):
    """The hub asks to come back later."""


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _client() -> httpx.Client:
    from huggingface_hub import get_token

    token = get_token()
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})}
    return httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0))


def _look_up(repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit and the size of each file at the top of the repository."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info: Any = huggingface_hub.HfApi(endpoint=_endpoint()).model_info(
            repository, revision=revision, files_metadata=True
        )
    except GatedRepoError:
        raise HubError(
            f"{repository} asks its readers to accept its terms on the hub, then: huggingface-cli login."
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{repository} has no revision {revision!r}.") from None
    except RepositoryNotFoundError:
        raise HubError(f"There is no model {repository} on the hub, or it is private: huggingface-cli login.") from None
    except Exception as error:  # its HTTP library, and so its errors, differ from version to version
        raise HubError(f"The hub could not be asked about {repository}: {error}") from None
    sizes = {file.rfilename: int(file.size) for file in info.siblings or [] if file.size is not None}
    return str(info.sha), {name: size for name, size in sizes.items() if "/" not in name}


def _hint(response: httpx.Response) -> str:
    return ", which needs a login: huggingface-cli login" if response.status_code in (401, 403) else ""
