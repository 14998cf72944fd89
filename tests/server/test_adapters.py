"""The adapter that a request chooses, through every door, up to the runner."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.engine.adaptation import FIRST, WITHOUT, Adaptation
from interns1_local.store.manifest import ADAPTER, PARAMS, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import FakeBackend

MESSAGES = [{"role": "user", "content": "Hi"}]
DOORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "Hi"}),
    ("/v1/responses", {"input": "Hi"}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
]
OLLAMA: list[tuple[str, dict[str, Any]]] = [
    ("/api/chat", {"messages": MESSAGES}),
    ("/api/generate", {"prompt": "Hi"}),
    ("/api/generate", {"prompt": "Hi", "raw": True}),
]
CHOICES: list[tuple[dict[str, Any], Adaptation]] = [
    ({}, FIRST),
    ({"adapter": "chem"}, FIRST),
    ({"adapter": "bio"}, Adaptation(1)),
    ({"adapter": "bio", "adapter_scale": 0.5}, Adaptation(1, 0.5)),
    ({"adapter_scale": 2}, Adaptation(0, 2.0)),
    ({"adapter": "none"}, WITHOUT),
    ({"adapter": ""}, WITHOUT),
]


@pytest.fixture(autouse=True)
def adapted(store: ModelStore) -> None:
    """`adapted` has the adapters chem and bio, `bound` the same and another default."""
    plain = store.resolve("plain")
    layers = [*plain.manifest.layers]
    for name in ("chem", "bio"):
        layers.append(replace(store.add_layer(ADAPTER, name.encode()), extra={"name": name}))
    store.write(ModelName.parse("adapted"), Manifest(plain.manifest.config, tuple(layers)))
    layers.append(store.add_layer(PARAMS, json.dumps({"adapter": "bio", "adapter_scale": 0.25}).encode()))
    store.write(ModelName.parse("bound"), Manifest(plain.manifest.config, tuple(layers)))


@pytest.mark.parametrize(("given", "expected"), CHOICES)
def test_it_reaches_the_runner(
    client: TestClient, backend: FakeBackend, given: dict[str, Any], expected: Adaptation
) -> None:
    requests = [(path, body | given) for path, body in DOORS]
    requests += [(path, body | {"options": given}) for path, body in DOORS + OLLAMA]
    for path, body in requests:
        answer = client.post(path, json={"model": "adapted", "stream": False, **body})
        assert answer.status_code == 200, (path, answer.text)
        assert backend.last.adaptation == expected, path


def test_a_modelfile_has_its_own_default(client: TestClient, backend: FakeBackend) -> None:
    for given, expected in (({}, Adaptation(1, 0.25)), ({"adapter": "chem", "adapter_scale": 1}, FIRST)):
        client.post("/api/chat", json={"model": "bound", "messages": MESSAGES, "options": given, "stream": False})
        assert backend.last.adaptation == expected


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("adapted", {"adapter": "Chem"}, "adapted:latest has no adapter 'Chem': choose one of chem, bio, or 'none'"),
    ("plain", {"adapter": "chem"}, "plain:latest has no adapter 'chem': it was made without any"),
    ("adapted", {"adapter": "bio", "adapter_scale": 1e300}, "adapter_scale must be a number between -100 and 100"),
]


@pytest.mark.parametrize(("model", "given", "message"), WRONG)
def test_one_that_is_not_there_is_refused(
    client: TestClient, backend: FakeBackend, model: str, given: dict[str, Any], message: str
) -> None:
    requests = [(path, body | given) for path, body in DOORS]
    requests += [(path, body | {"options": given}) for path, body in OLLAMA]
    requests += [("/api/embed", {"input": "a text", "options": given})]
    for path, body in requests:
        answer = client.post(path, json={"model": model, "stream": False, **body})
        assert answer.status_code == 400 and message in answer.text, (path, answer.text)
    assert backend.requests == []


def test_a_model_without_adapters_may_be_asked_for_none(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "plain", "messages": MESSAGES, "options": {"adapter": "none"}, "stream": False}
    assert client.post("/api/chat", json=body).status_code == 200
    assert backend.last.adaptation == WITHOUT


def test_show_lists_them(client: TestClient, store: ModelStore) -> None:
    shown = client.post("/api/show", json={"model": "adapted"}).json()
    assert shown["adapters"] == [{"name": "chem", "size": 4}, {"name": "bio", "size": 3}]
    lines = [line for line in shown["modelfile"].splitlines() if line.startswith("ADAPTER ")]
    paths = [adapter.path for adapter in store.resolve("adapted").adapters]
    assert lines == [f"ADAPTER {path} AS {name}" for path, name in zip(paths, ("chem", "bio"), strict=True)]
    assert "adapters" not in client.post("/api/show", json={"model": "plain"}).json()
