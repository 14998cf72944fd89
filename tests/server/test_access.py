"""The API key, the log of requests, /healthz and /metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from interns1_local.config import Settings, load_settings
from interns1_local.errors import BadRequest
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.server.access_log import JSONFormatter, TextFormatter
from interns1_local.server.app import create_app
from interns1_local.server.services import resolver
from interns1_local.store.model_store import ModelStore
from tests.server.fake_runner import FakeBackend

KEY = "s3cret"


@pytest.fixture
def guarded(store: ModelStore, backend: FakeBackend) -> Iterator[TestClient]:
    settings = replace(Settings(), models_dir=store.root, noprune=True, api_key=KEY)
    app = create_app(settings, store, ModelScheduler(settings, resolver(store), start_runner=backend.start))
    with TestClient(app, base_url="http://127.0.0.1:11434") as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"authorization": f"Bearer {KEY}"}, True),
        ({"authorization": f"bearer {KEY}"}, True),
        ({"x-api-key": KEY}, True),
        ({"authorization": "Bearer wrong"}, False),
        ({"authorization": f"Basic {KEY}"}, False),
        ({"x-api-key": KEY + "x"}, False),
    ],
)
def test_api_key(guarded: TestClient, headers: dict[str, str], allowed: bool) -> None:
    for path in ("/api/tags", "/v1/models", "/metrics", "/nowhere"):
        response = guarded.get(path, headers=headers)
        assert (response.status_code == 401) != allowed, path
    if not allowed:
        assert "INTERNS1_API_KEY" in guarded.get("/api/tags", headers=headers).json()["error"]
        openai = guarded.get("/v1/models", headers=headers).json()["error"]
        assert openai["type"] == "authentication_error" and "API key" in openai["message"]
    assert guarded.get("/", headers=headers).status_code == 200
    assert guarded.get("/healthz", headers=headers).text == "ok\n"


def test_the_page_needs_no_key_and_its_routes_do(guarded: TestClient) -> None:
    assert guarded.get("/", headers={"accept": "text/html"}).status_code == 200
    assert guarded.get("/web/app/main.js").status_code == 200
    assert guarded.post("/api/molecules", json={"text": "CCO"}).status_code == 401
    assert guarded.get("/web/../api/tags").status_code == 401


def test_preflight_needs_no_key(guarded: TestClient) -> None:
    headers = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    assert guarded.options("/api/chat", headers=headers).status_code == 204


def test_request_id(client: TestClient) -> None:
    assert client.get("/api/tags", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = client.get("/api/tags", headers={"x-request-id": "not good\t"}).headers["x-request-id"]
    assert len(made) == 16
    assert client.get("/", headers={"host": "evil.com"}).headers["x-request-id"]


def test_log_lines(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="interns1_local.access")
    client.get("/api/nothing%0Aforged", headers={"x-request-id": "abc"})
    client.get("/healthz")
    (record,) = [record for record in caplog.records if record.name == "interns1_local.access"]
    fields = json.loads(JSONFormatter().format(record))
    assert fields["id"] == "abc" and fields["status"] == 404 and fields["method"] == "GET"
    line = TextFormatter().format(record)
    assert "\n" not in line and "404" in line and "/api/nothing\\nforged" in line and "id=abc" in line


def test_metrics(client: TestClient) -> None:
    client.get("/api/tags")
    client.get("/v1/models/some/name")
    client.get("/secret/path")
    client.post("/api/chat", json={"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": False})
    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    counts = {
        (s.labels["method"], s.labels["path"], s.labels["status"]): s.value
        for s in families["interns1_http_requests"].samples
        if s.name.endswith("_total")
    }
    assert counts["GET", "/api/tags", "200"] == 1
    assert counts["GET", "/v1/models/{name:path}", "404"] == 1
    assert counts["GET", "other", "404"] == 1
    assert {s.labels["model"] for s in families["interns1_model_bytes"].samples} == {"tiny:latest"}
    assert families["interns1_pending_requests"].samples[0].value == 0
    tokens = {s.labels["kind"]: s.value for s in families["interns1_tokens"].samples if s.name.endswith("_total")}
    assert tokens == {"prompt": 7, "cached": 3, "output": 1, "drafted": 0, "accepted": 0}


@pytest.mark.parametrize(("value", "expected"), [("", "text"), ("JSON", "json"), ("off", "off")])
def test_log_setting(value: str, expected: str) -> None:
    assert load_settings({"INTERNS1_LOG": value}).log_format == expected


def test_wrong_log_setting() -> None:
    with pytest.raises(BadRequest, match="text, json, off"):
        load_settings({"INTERNS1_LOG": "xml"})
