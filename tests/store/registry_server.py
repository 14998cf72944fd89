"""A registry on loopback that speaks the v2 protocol, with faults to order."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from interns1_local.store.manifest import CONFIG_TYPE, MODEL, Layer, Manifest
from tests.loopback import serving

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Registry:
    """What it holds, how it misbehaves, and what it was asked for."""

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    cut_after: int = 0  # every blob answer ends after so many bytes
    failures: int = 0  # so many blob requests are answered with 503
    ignores_ranges: bool = False
    corrupt: bool = False
    redirect: str = ""  # where blobs are said to be
    token: str = ""  # asked for, and given at /token for the account below
    account: str = ""
    hold: threading.Event | None = None  # blob answers wait for it after their first half
    asked: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    def add_model(self, name: str, layers: dict[str, bytes], tag: str = "latest") -> Manifest:
        """A model of layers by media type."""
        made = [self._add(media_type, data) for media_type, data in layers.items()]
        manifest = Manifest(self._add(CONFIG_TYPE, b'{"model_format":"gguf"}'), tuple(made))
        # White space that our own writer would not put there: the bytes must survive a pull.
        self.manifests[f"{name}:{tag}"] = json.dumps(json.loads(manifest.to_bytes()), indent=3).encode()
        return manifest

    def _add(self, media_type: str, data: bytes) -> Layer:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return Layer(media_type, digest, len(data))


def model_layers(size: int, seed: int = 0) -> dict[str, bytes]:
    data = b"".join(hashlib.sha256(b"%d %d" % (seed, i)).digest() for i in range(size // 32 + 1))[:size]
    return {MODEL: data}


@contextmanager
def registry_server() -> Iterator[Registry]:
    registry = Registry()
    with serving(type("Handler", (_Handler,), {"registry": registry})) as registry.url:
        yield registry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def do_GET(self) -> None:
        registry = self.registry
        path = self.path.partition("?")[0]
        with registry.lock:
            registry.asked[f"{self.command} {path.rpartition('/')[2]}"] += 1
        if path == "/token":
            given = self.headers.get("authorization", "")
            self._answer(200 if given == registry.account else 401, json.dumps({"token": registry.token}).encode())
        elif registry.token and self.headers.get("authorization") != f"Bearer {registry.token}":
            challenge = f'Bearer realm="{registry.url}/token",service="here",scope="repository:x:pull"'
            self._answer(401, b"{}", {"www-authenticate": challenge})
        elif "/manifests/" in path:
            name, _, tag = path.removeprefix("/v2/").partition("/manifests/")
            data = registry.manifests.get(f"{name}:{tag}")
            self._answer(404 if data is None else 200, data or b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')
        elif "/blobs/" in path:
            self._blob(path.rpartition("/")[2])
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._read()
        place = f"{self.path}{len(self.registry.uploads)}"
        self.registry.uploads[place] = b""
        self._answer(202, b"", {"location": place})

    def do_PATCH(self) -> None:
        self.registry.uploads[self.path] += self._read()
        self._answer(202, b"", {"location": self.path})

    def do_PUT(self) -> None:
        data = self._read()
        if "/manifests/" in self.path:
            name, _, tag = self.path.removeprefix("/v2/").partition("/manifests/")
            self.registry.manifests[f"{name}:{tag}"] = data
            self._answer(201, b"")
            return
        place, _, query = self.path.partition("?")
        digest = query.removeprefix("digest=").replace("%3A", ":")
        blob = self.registry.uploads.pop(place)
        if "sha256:" + hashlib.sha256(blob).hexdigest() != digest:
            self._answer(400, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
            return
        self.registry.blobs[digest] = blob
        self._answer(201, b"")

    def _blob(self, digest: str) -> None:
        registry = self.registry
        data = registry.blobs.get(digest)
        if data is None:
            self._answer(404, b"")
            return
        with registry.lock:
            fails = registry.failures > 0
            registry.failures -= fails
        if fails:
            self._answer(503, b"later")
            return
        if registry.redirect:
            self._answer(307, b"", {"location": registry.redirect + self.path})
            return
        if registry.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        asked = _RANGE.fullmatch(self.headers.get("range", ""))
        if asked is None or registry.ignores_ranges:
            self._send(200, data, {})
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        with registry.lock:
            registry.ranges.append((first, last))
        self._send(206, data[first : last + 1], {"content-range": f"bytes {first}-{last}/{len(data)}"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        """The whole length is announced; the connection may end before."""
        sent = data[: self.registry.cut_after] if self.registry.cut_after else data
        self._answer(status, sent, {"content-length": str(len(data)), **headers})
        if len(sent) < len(data):
            self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if self.registry.hold is not None and len(body) > 1000:
                self.wfile.write(body[: len(body) // 2])
                self.registry.hold.wait(10)
                body = body[len(body) // 2 :]
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def _read(self) -> bytes:
        length = self.headers.get("content-length")
        if length is not None:
            return self.rfile.read(int(length))
        data = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_: object) -> None:
        pass
