"""Image URLs in /v1 requests: off by default, fetched from hosts that the settings allow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest
from PIL import Image
from starlette.testclient import TestClient

from interns1_local.config import Settings
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.server.app import create_app
from interns1_local.server.image_urls import fetch_rules
from interns1_local.server.services import resolver
from interns1_local.store.model_store import ModelStore
from tests.loopback import serving
from tests.server.fake_runner import FakeBackend


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(data, "PNG")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data.getvalue())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def picture_url() -> Iterator[str]:
    with serving(_Pictures) as url:
        yield f"{url}/red.png"


@pytest.fixture
def allowing(store: ModelStore, backend: FakeBackend) -> Iterator[TestClient]:
    settings = replace(Settings(), models_dir=store.root, noprune=True, image_urls="127.0.0.1")
    app = create_app(settings, store, ModelScheduler(settings, resolver(store), start_runner=backend.start))
    with TestClient(app, base_url="http://127.0.0.1:11434") as client:
        yield client


def _chat(url: str) -> dict[str, object]:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def test_off_by_default(client: TestClient, picture_url: str) -> None:
    response = client.post("/v1/chat/completions", json=_chat(picture_url))
    assert response.status_code == 400
    assert "INTERNS1_IMAGE_URLS" in response.json()["error"]["message"]


def test_fetched_from_an_allowed_host(allowing: TestClient, backend: FakeBackend, picture_url: str) -> None:
    assert allowing.post("/v1/chat/completions", json=_chat(picture_url)).status_code == 200
    (tiles,) = [part for part in backend.requests[-1].prompt if not isinstance(part, str | int)]
    assert tiles.shape[0] == 1 and tiles[0, 0, 0].tolist() == [255, 0, 0]


def test_other_hosts_stay_out(allowing: TestClient) -> None:
    response = allowing.post("/v1/chat/completions", json=_chat("http://localhost:1/x.png"))
    assert response.status_code == 400
    assert "may not be fetched from localhost" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("text", "public", "hosts"),
    [("", False, set()), ("0", False, set()), ("1", True, set()), ("A.org, b.org", False, {"a.org", "b.org"})],
)
def test_rules(text: str, public: bool, hosts: set[str]) -> None:
    rules = fetch_rules(text)
    assert (rules.public, set(rules.hosts)) == (public, hosts)
    assert rules.off == (not public and not hosts)
