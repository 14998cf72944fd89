"""Fetching pictures: what is refused, and what a server on loopback gives when its host is allowed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from interns1_local.errors import MediaError
from interns1_local.media import fetch
from interns1_local.media.fetch import FetchRules, fetch_image
from tests.loopback import serving

PICTURE = b"\x89PNG and so on"
LOCAL = FetchRules(hosts=frozenset({"127.0.0.1"}))
PUBLIC = FetchRules(public=True)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        moves = {
            "/moved": "/picture",
            "/loop": "/loop",
            "/inside": "http://localhost:1/x",
            "/file": "file:///etc/passwd",
        }
        if self.path in moves:
            self.send_response(302)
            self.send_header("location", moves[self.path])
            self.end_headers()
        elif self.path == "/picture":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            threading.Event().wait(2)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with serving(_Handler) as url:
        yield url


@pytest.mark.parametrize("path", ["/picture", "/moved"])
def test_allowed_host(site: str, path: str) -> None:
    assert asyncio.run(fetch_image(site + path, LOCAL)) == PICTURE


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nothing", "status 404"),
        ("/loop", "more than 3 redirects"),
        ("/inside", "may not be fetched from localhost"),
        ("/file", "not an http or https URL"),
    ],
)
def test_refused_answers(site: str, path: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        asyncio.run(fetch_image(site + path, LOCAL))


def test_size(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 5)
    with pytest.raises(MediaError, match="larger than the limit"):
        asyncio.run(fetch_image(f"{site}/picture", LOCAL))


def test_time(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 0.2)
    with pytest.raises(MediaError, match="did not arrive"):
        asyncio.run(fetch_image(f"{site}/slow", LOCAL))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://localhost/x", "http://10.0.0.1/x", "http://192.168.1.1/x", "http://[::1]/x",
        "http://169.254.169.254/latest/meta-data", "http://[::ffff:127.0.0.1]/x", "http://0.0.0.0/x", "http://0/x",
        "http://2130706433/x", "http://0x7f.1/x", "http://[64:ff9b::7f00:1]/x", "http://[fe80::1]/x", "http://224.0.0.1/x",
    ],
)  # fmt: skip
def test_private_addresses(url: str) -> None:
    with pytest.raises(MediaError, match=r"private network|cannot be"):
        asyncio.run(fetch_image(url, PUBLIC))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/x", "not an http"), ("http://", "not an http"), ("http://user:word@127.0.0.1/x", "password"),
        ("http://nowhere.invalid/x", "cannot be found"), ("http://127.0.0.1:99999/x", "cannot be fetched"),
        ("http://[::1/x", "cannot be fetched"), ("http://127.0.0.1:1/x", "cannot be fetched"),
    ],
)  # fmt: skip
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        asyncio.run(fetch_image(url, LOCAL if "127" in url or "://[" in url else PUBLIC))
