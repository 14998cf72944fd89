"""CORS, the Host check and the size limit."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from interns1_local.server import security


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:11434", True), ("localhost", True), ("[::1]:11434", True), ("", True), ("10.0.0.5", True),
        ("my.localhost", True), ("box.local", True), ("host.docker.internal:11434", True), ("0.0.0.0", True),
        ("evil.com", False), ("127.0.0.1.evil.com", False), ("8.8.8.8", False), ("localhost.evil.com:11434", False),
    ],
)  # fmt: skip
def test_host(client: TestClient, host: str, allowed: bool) -> None:
    assert security.host_allowed(host) == allowed
    if host:
        response = client.get("/", headers={"host": host})
        assert response.status_code == (200 if allowed else 403)
        assert allowed or "for this machine only" in response.text


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True), ("http://localhost:3000", True), ("https://127.0.0.1:8080", True),
        ("app://obsidian.md", True), ("tauri://localhost", True), ("http://127.0.0.1:11434", True),
        ("http://evil.com", False), ("null", False), ("http://localhost.evil.com", False),
    ],
)  # fmt: skip
def test_origin(client: TestClient, origin: str, allowed: bool) -> None:
    response = client.get("/api/version", headers={"origin": origin})
    assert response.status_code == (200 if allowed else 403)
    assert allowed or "INTERNS1_ORIGINS" in response.text
    same = origin == "http://127.0.0.1:11434"
    assert response.headers.get("access-control-allow-origin") == (origin if allowed and not same else None)
    preflight = client.options("/api/chat", headers={"origin": origin, "access-control-request-method": "POST"})
    assert preflight.status_code == (204 if allowed else 403)
    if allowed and not same:
        assert "Authorization" in preflight.headers["access-control-allow-headers"]


def test_size_limit(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "MAX_BODY", 10)
    for body in (b"x" * 11, iter([b"x" * 6, b"x" * 6])):
        response = client.post("/api/chat", content=body)
        assert response.status_code == 413
        assert response.json()["error"].startswith("http: request body too large")
    assert client.post("/api/blobs/sha256:" + "0" * 64, content=b"x" * 20).status_code == 400
