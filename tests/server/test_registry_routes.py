"""/api/pull and /api/push with the `ollama` client and the `interns1` command, against a registry on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest

from interns1_local.store.manifest import Manifest
from tests.store.registry_server import Registry, registry_server


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_server() as server:
        yield server


@pytest.fixture
def client(live_url: str) -> Iterator[ollama.Client]:
    with ollama.Client(live_url) as client:
        yield client


def test_push_pull_and_use(client: ollama.Client, registry: Registry) -> None:
    name = f"http://{registry.host}/lab/tiny:v1"
    client.copy("tiny", f"{registry.host}/lab/tiny:v1")
    steps = [step.status for step in client.push(name, insecure=True, stream=True)]
    assert steps[0] == "retrieving manifest" and steps[-2:] == ["pushing manifest", "success"]
    digests = Manifest.from_bytes(registry.manifests["lab/tiny:v1"]).digests
    assert set(registry.blobs) == digests

    client.delete("tiny")
    client.delete(f"{registry.host}/lab/tiny:v1")
    assert [model.model for model in client.list().models] == ["plain:latest"]
    progress = list(client.pull(name, insecure=True, stream=True))
    assert progress[0].status == "pulling manifest" and progress[-1].status == "success"
    assert {step.digest for step in progress if step.digest} == digests
    assert client.show(f"{registry.host}/lab/tiny:v1").details.format == "gguf"
    answer = client.chat(f"{registry.host}/lab/tiny:v1", [{"role": "user", "content": "Hi"}])
    assert answer.done


def test_whole_answers(client: ollama.Client, registry: Registry) -> None:
    client.copy("plain", f"{registry.host}/lab/plain")
    assert client.push(f"http://{registry.host}/lab/plain", insecure=True).status == "success"
    assert client.pull(f"http://{registry.host}/lab/plain", insecure=True).status == "success"
    with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist") as caught:
        client.pull(f"http://{registry.host}/lab/nothing", insecure=True)
    assert caught.value.status_code == 500
