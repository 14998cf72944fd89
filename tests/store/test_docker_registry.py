"""Push and pull through the registry server that Debian packages (docker-registry), where it is installed.

What the protocol needs is tested everywhere by tests/store/test_pull.py; this shows that a server of others agrees.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from interns1_local.store.manifest import CONFIG_TYPE, MODEL, SYSTEM, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.pull import pull, push
from tests.store.registry_server import model_layers

SERVER = shutil.which("docker-registry")
pytestmark = pytest.mark.skipif(SERVER is None, reason="docker-registry is not installed (apt install docker-registry)")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder / 'data'}\nhttp:\n  addr: {address}\n"
        "  secret: here\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(SERVER), "serve", str(config)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    httpx.get(f"http://{address}/v2/", trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.wait(10)


def test_push_and_pull(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interns1_local.store.registry.UPLOAD_BYTES", 1_000_000)
    monkeypatch.setattr("interns1_local.store.download.PART_BYTES", 700_000)
    store = ModelStore(tmp_path / "one")
    data = model_layers(3_500_000)[MODEL]
    layers = store.add_layer(MODEL, data), store.add_layer(SYSTEM, b"Be brief.")
    name = ModelName.parse(f"{host}/lab/model:v1")
    store.write(name, Manifest(store.add_layer(CONFIG_TYPE, b'{"model_format":"gguf"}'), layers))
    for _ in range(2):
        push(store, f"http://{host}/lab/model:v1", insecure=True)
    other = ModelStore(tmp_path / "two")
    pull(other, f"{host}/lab/model:v1", insecure=True)
    model = other.resolve(name)
    assert model.model_path.read_bytes() == data and model.system == "Be brief."
    assert model.digest == store.resolve(name).digest
