"""The OpenAPI document says what the server accepts: every route, and every field with the type that is checked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from interns1_local.server.openapi import OPERATIONS, document
from interns1_local.server.routes import ROUTES
from tests.server.fake_runner import FakeBackend

WRONG = {"string": 5, "boolean": "yes", "integer": "5", "number": "0.5", "object": "x", "array": "x"}
READ = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/responses", "/v1/messages")


def _properties(operation: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    return properties


FIELDS = [
    (path, name, schema["type"])
    for path in READ
    for name, schema in _properties(document()["paths"][path]["post"]).items()
    if "type" in schema
]


def test_every_route_is_there() -> None:
    served = set()
    for route in ROUTES:
        assert isinstance(route, Route)
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        methods = (route.methods or set()) - ({"HEAD"} if "GET" in (route.methods or ()) else set())
        served |= {(method, path) for method in methods}
    assert served == set(OPERATIONS)


def test_the_document(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    assert found["openapi"] == "3.1.0" and found == document()


@pytest.mark.parametrize(("path", "name", "kind"), FIELDS)
def test_types_are_checked(client: TestClient, backend: FakeBackend, path: str, name: str, kind: str) -> None:
    body: dict[str, Any] = {"model": "tiny", "stream": False, "prompt": "Hi", "input": "Hi", "max_tokens": 5}
    body["messages"] = [{"role": "user", "content": "Hi"}]
    wrong = client.post(path, json=body | {name: WRONG[kind]})
    assert wrong.status_code in (400, 404, 500), f"{name} = {WRONG[kind]!r} was taken"
    assert not backend.requests
