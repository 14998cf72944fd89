"""A server on this machine that speaks the part of the hub's API that a conversion needs, and breaks on request."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from tests.loopback import serving

REPOSITORY, COMMIT, TOKEN = "lab/tiny", "c0ffee" * 6 + "c0ff", "hf_secret"


@dataclass
class Trouble:
    """What goes wrong. Each count is used up."""

    busy: int = 0  # answers of 503
    drops: int = 0  # connections that end in the middle of the bytes
    deaf: bool = False  # ranges are ignored
    gone: bool = False  # every file answers 503
    private: bool = False
    grown: int = 0  # bytes that files have more than the listing said
    requests: list[tuple[str, str]] = field(default_factory=list)  # (path, range)


class Handler(BaseHTTPRequestHandler):
    folder: ClassVar[Path]
    trouble: ClassVar[Trouble]
    lock: ClassVar[threading.Lock]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if self.trouble.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[:2] == ["api", "models"]:
            self._model(parts[2:])
        elif parts[:2] == REPOSITORY.split("/") and parts[2:4] == ["resolve", COMMIT]:
            self._answer(302, b"", {"Location": f"/cdn/{parts[4]}"})
        elif parts[0] == "cdn":
            self._file(self.folder / parts[1])
        else:
            self._answer(404, b"{}")

    def _model(self, parts: list[str]) -> None:
        if parts[:2] != REPOSITORY.split("/"):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[2:] and parts[2:] not in (["revision", "main"], ["revision", "v1"]):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            files = [{"rfilename": f.name, "size": f.stat().st_size} for f in sorted(self.folder.iterdir())]
            files.append({"rfilename": "original/other.safetensors", "size": 10})
            listing = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": files, "tags": []}
            self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        asked = self.headers.get("Range", "")
        with self.lock:
            self.trouble.requests.append((path.name, asked))
            busy, drop = self.trouble.busy > 0 or self.trouble.gone, self.trouble.drops > 0
            self.trouble.busy -= busy
            self.trouble.drops -= drop and not busy
        if busy:
            self._answer(503, b"later")
            return
        data = path.read_bytes()
        if self.trouble.deaf:
            self._answer(200, data)
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data) + self.trouble.grown}"}
        self._answer(206, part, headers, cut=len(part) // 2 if drop else None)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[tuple[str, Trouble]]:
    """The folder as the repository lab/tiny: (endpoint, what shall go wrong)."""
    trouble = Trouble()
    members = {"folder": folder, "trouble": trouble, "lock": threading.Lock()}
    with serving(type("TinyHub", (Handler,), members)) as url:
        yield url, trouble
