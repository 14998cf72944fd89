"""A folder as a repository of the Hugging Face hub and of ModelScope, on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import serving

REPOSITORY, COMMIT = "lab/Model-GGUF", "beef" * 10
LARGE = (".gguf", ".safetensors", ".model")


@dataclass
class Hub:
    folder: Path
    url: str = ""
    cuts: int = 0  # so many file answers end in the middle
    hides_digests: bool = False
    reads: list[tuple[str, str]] = field(default_factory=list)  # (file, range)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listing(self) -> list[tuple[str, int, str]]:
        """(path, size, sha256) of every file."""
        found = []
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found.append((path.relative_to(self.folder).as_posix(), path.stat().st_size, digest))
        return found


@contextlib.contextmanager
def hub_server(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    with serving(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        path, query = unquote(split.path).strip("/"), parse_qs(split.query)
        if path == f"api/models/{REPOSITORY}":
            head = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "tags": []}
            self._json(head | {"siblings": self._siblings()})
        elif path.startswith(f"{REPOSITORY}/resolve/{COMMIT}/"):
            # As the real hub: files lie on another host.
            self._answer(302, b"", {"location": f"/cdn/{path.removeprefix(f'{REPOSITORY}/resolve/{COMMIT}/')}"})
        elif path.startswith("cdn/"):
            self._file(path.removeprefix("cdn/"))
        elif path == f"api/v1/models/{REPOSITORY}/repo/files" and query["Revision"] == ["master"]:
            listing = self.hub.listing()
            entries = [{"Path": p, "Size": size, "Sha256": sha, "Type": "blob"} for p, size, sha in listing]
            self._json({"Code": 200, "Data": {"Files": [{"Path": "folder", "Size": 0, "Type": "tree"}, *entries]}})
        elif path == f"api/v1/models/{REPOSITORY}/repo":
            self._file(query["FilePath"][0])
        else:
            self._answer(404, b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"})

    def _siblings(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path, size, digest in self.hub.listing():
            entry: dict[str, Any] = {"rfilename": path, "size": size, "blobId": digest[:40]}
            if path.endswith(LARGE) and not self.hub.hides_digests:
                entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
            found.append(entry)
        return found

    def _file(self, name: str) -> None:
        asked = self.headers.get("range", "")
        with self.hub.lock:
            self.hub.reads.append((name, asked))
            cut = self.hub.cuts > 0
            self.hub.cuts -= cut
        data = (self.hub.folder / name).read_bytes()
        status, headers = 200, {}
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", asked):
            first, last = int(match[1]), min(int(match[2]), len(data) - 1)
            status, headers = 206, {"content-range": f"bytes {first}-{last}/{len(data)}"}
            data = data[first : last + 1]
        self._answer(status, data, headers, len(data) // 2 if cut else None)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = cut is not None

    def log_message(self, *_: object) -> None:
        pass
