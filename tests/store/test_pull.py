"""Pull and push against a registry on loopback, and what happens when it cuts, lies, fails or waits."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interns1_local.errors import BadRequest, Cancelled, InternS1Error
from interns1_local.store import download
from interns1_local.store.manifest import ADAPTER, DRAFT, MODEL, SYSTEM, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.pull import pull, push
from interns1_local.store.remote import RemoteError
from tests.store.registry_server import Registry, model_layers, registry_server

SIZE = 300_000


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registry_server() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(download, "PART_BYTES", 40_000)
    monkeypatch.setattr(download.fetch_blob, "__kwdefaults__", {"part_bytes": 40_000, "sleep": lambda seconds: None})
    return ModelStore(tmp_path / "models")


def name_of(registry: Registry, model: str = "lab/model") -> str:
    return f"http://{registry.host}/{model}"


def pulled(store: ModelStore, registry: Registry) -> list[dict[str, Any]]:
    statuses: list[dict[str, Any]] = []
    pull(store, name_of(registry), statuses.append, insecure=True)
    return statuses


def figures(statuses: list[dict[str, Any]], digest: str) -> list[int]:
    return [status.get("completed", 0) for status in statuses if status.get("digest") == digest]


def test_pull(store: ModelStore, registry: Registry) -> None:
    manifest = registry.add_model("lab/model", {**model_layers(SIZE), SYSTEM: b"Be brief."})
    statuses = pulled(store, registry)
    model = store.resolve(f"{registry.host}/lab/model")
    assert model.model_path.read_bytes() == model_layers(SIZE)[MODEL] and model.system == "Be brief."
    assert store.raw_manifest(model.name) == registry.manifests["lab/model:latest"]
    assert model.digest == hashlib.sha256(registry.manifests["lab/model:latest"]).hexdigest()
    words = [status["status"] for status in statuses]
    assert words[0] == "pulling manifest" and words[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    digest = manifest.layers[0].digest
    assert f"pulling {digest[7:19]}" in words
    assert figures(statuses, digest)[-1] == SIZE
    assert len(registry.ranges) >= SIZE // 40_000, "parts are asked for one by one"


def test_what_is_there_is_not_asked_for_again(store: ModelStore, registry: Registry) -> None:
    manifest = registry.add_model("lab/model", model_layers(SIZE))
    pulled(store, registry)
    before = registry.asked.copy()
    statuses = pulled(store, registry)
    assert registry.asked - before == {"GET latest": 1}
    assert figures(statuses, manifest.layers[0].digest) == [SIZE]


@pytest.mark.parametrize(
    "fault", [{"cut_after": 7_000}, {"failures": 4}, {"ignores_ranges": True}, {"redirect": "self"}], ids=str
)
def test_faults_that_are_overcome(store: ModelStore, registry: Registry, fault: dict[str, Any]) -> None:
    manifest = registry.add_model("lab/model", model_layers(SIZE))
    if fault.get("redirect"):
        with registry_server() as mirror:
            mirror.blobs = registry.blobs
            registry.redirect, registry.token, registry.account = mirror.url, "t0ken", ""
            statuses = pulled(store, registry)
            assert mirror.ranges and not registry.ranges
    else:
        vars(registry).update(fault)
        statuses = pulled(store, registry)
    done = figures(statuses, manifest.layers[0].digest)
    assert done == sorted(done) and done[-1] == SIZE, "the figure never goes back"
    assert store.resolve(f"{registry.host}/lab/model").model_path.stat().st_size == SIZE
    assert not list(store.blobs.folder.glob("*-partial")), "nothing is left beside the blobs"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"corrupt": True}, "digest mismatch, file must be downloaded again"),
        ({"failures": 10_000}, "max retries exceeded"),
        ({"blobs": {}}, "status 404"),
        ({"token": "x", "account": "Basic eA=="}, "INTERNS1_REGISTRY_USER"),
    ],
)
def test_faults_that_are_told(store: ModelStore, registry: Registry, fault: dict[str, Any], message: str) -> None:
    registry.add_model("lab/model", model_layers(SIZE))
    vars(registry).update(fault)
    with pytest.raises(RemoteError, match=message):
        pulled(store, registry)
    assert store.names() == []


def test_wrong_bytes_are_not_kept(store: ModelStore, registry: Registry) -> None:
    registry.add_model("lab/model", model_layers(SIZE))
    registry.corrupt = True
    with pytest.raises(RemoteError):
        pulled(store, registry)
    registry.corrupt = False
    pulled(store, registry)
    assert store.resolve(f"{registry.host}/lab/model").model_path.read_bytes() == model_layers(SIZE)[MODEL]


def test_account(store: ModelStore, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_model("lab/model", model_layers(1000))
    registry.token, registry.account = "t0ken", "Basic bWU6d29yZA=="
    monkeypatch.setenv("INTERNS1_REGISTRY_USER", "me")
    monkeypatch.setenv("INTERNS1_REGISTRY_PASSWORD", "word")
    assert pulled(store, registry)[-1] == {"status": "success"}


def test_stopped_by_the_reader(store: ModelStore, registry: Registry) -> None:
    """A client that leaves stops the download; the next one goes on from the bytes that are there."""
    manifest = registry.add_model("lab/model", model_layers(SIZE))
    registry.hold = threading.Event()

    def leave(status: dict[str, Any]) -> None:
        if status.get("completed", 0) >= 40_000:
            registry.hold.set()  # type: ignore[union-attr]
            raise Cancelled("request canceled")

    with pytest.raises(Cancelled):
        pull(store, name_of(registry), leave, insecure=True)
    assert store.names() == [] and list(store.blobs.folder.glob("*-partial"))
    registry.hold, registry.ranges = None, []
    statuses = pulled(store, registry)
    assert figures(statuses, manifest.layers[0].digest)[0] >= 40_000
    assert sum(last - first + 1 for first, last in registry.ranges) <= SIZE - 40_000 + 100
    assert store.resolve(f"{registry.host}/lab/model").model_path.read_bytes() == model_layers(SIZE)[MODEL]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_killed_process(store: ModelStore, registry: Registry) -> None:
    registry.add_model("lab/model", model_layers(SIZE))
    registry.hold = threading.Event()
    code = (
        "import sys; from pathlib import Path; from interns1_local.store import download, pull, model_store\n"
        "download.SAVE_SECONDS = 0.0\n"
        "download.fetch_blob.__kwdefaults__['part_bytes'] = 40000\n"
        "pull.pull(model_store.ModelStore(Path(sys.argv[1])), sys.argv[2], insecure=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(store.root), name_of(registry)])
    try:
        deadline = time.monotonic() + 20
        while not list(store.blobs.folder.glob("*.parts-partial")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    registry.hold.set()
    registry.hold, registry.ranges = None, []
    assert store.names() == []
    pulled(store, registry)
    assert sum(last - first + 1 for first, last in registry.ranges) < SIZE
    assert store.resolve(f"{registry.host}/lab/model").model_path.read_bytes() == model_layers(SIZE)[MODEL]


def test_shared_by_those_who_ask_at_once(store: ModelStore, registry: Registry) -> None:
    registry.add_model("lab/model", model_layers(SIZE))
    registry.hold = threading.Event()
    results: list[list[dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: results.append(pulled(store, registry))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    registry.hold.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == 3 and all(statuses[-1] == {"status": "success"} for statuses in results)
    asked = sum(last - first + 1 for first, last in registry.ranges)
    assert asked <= SIZE + 1000, "each byte once"


def test_full_disk(store: ModelStore, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.add_model("lab/model", model_layers(SIZE))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InternS1Error, match="Make room and pull again"):
        pulled(store, registry)
    monkeypatch.undo()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(InternS1Error, match="No space left on device"):
            pulled(store, registry)
    assert pulled(store, registry)[-1] == {"status": "success"}


@pytest.mark.parametrize(
    "state", [b"", b"{}", b'{"size": 1}', b'{"size": 300000, "parts": [[0, 300000, 300000]]}', b"\xff\xfe", b"[[]]"]
)
def test_a_broken_note_of_the_parts(store: ModelStore, registry: Registry, state: bytes) -> None:
    """Whatever the file says, the bytes are checked in the end."""
    digest = registry.add_model("lab/model", model_layers(SIZE)).layers[0].digest
    store.blobs.folder.mkdir(parents=True)
    (store.blobs.folder / f"interns1-{digest[7:]}.parts-partial").write_bytes(state)
    for _ in range(2):
        try:
            pulled(store, registry)
            break
        except RemoteError as error:
            assert "downloaded again" in str(error)
    assert store.resolve(f"{registry.host}/lab/model").model_path.read_bytes() == model_layers(SIZE)[MODEL]


def test_unknown_model(store: ModelStore, registry: Registry) -> None:
    with pytest.raises(RemoteError, match="pull model manifest: file does not exist"):
        pulled(store, registry)


@pytest.mark.parametrize(
    "manifest",
    [
        b"no json", b"[]", b'{"config": {}}',
        b'{"config":{"mediaType":"c","digest":"sha256:../../x","size":1},"layers":[]}',
        b'{"config":{"mediaType":"c","digest":"sha256:%s","size":-1},"layers":[]}' % (b"0" * 64),
        b" " * (5 << 20),
    ],
)  # fmt: skip
def test_hostile_manifests(store: ModelStore, registry: Registry, manifest: bytes) -> None:
    registry.manifests["lab/model:latest"] = manifest
    with pytest.raises(InternS1Error):
        pulled(store, registry)
    assert store.names() == []


def test_plain_http_is_asked_for(store: ModelStore, registry: Registry) -> None:
    with pytest.raises(BadRequest, match="--insecure"):
        pull(store, name_of(registry))


def test_no_server(store: ModelStore) -> None:
    with pytest.raises(RemoteError, match="cannot be reached"):
        pull(store, "http://127.0.0.1:1/lab/model", insecure=True)


def test_push_and_pull_back(store: ModelStore, registry: Registry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("interns1_local.store.registry.UPLOAD_BYTES", 70_000)
    registry.add_model("lab/model", {**model_layers(SIZE), SYSTEM: b"Hello.", ADAPTER: b"a lora", DRAFT: b"small"})
    pulled(store, registry)
    raw = store.raw_manifest(store.resolve(f"{registry.host}/lab/model").name)
    with registry_server() as other:
        store.copy(f"{registry.host}/lab/model", f"{other.host}/mine/copy:v1")
        statuses: list[dict[str, Any]] = []
        push(store, f"http://{other.host}/mine/copy:v1", statuses.append, insecure=True)
        assert statuses[0] == {"status": "retrieving manifest"} and statuses[-1] == {"status": "success"}
        digest = Manifest.from_bytes(raw).layers[0].digest
        done = figures(statuses, digest)
        assert done == sorted(done) and done[-1] == SIZE
        assert other.blobs == registry.blobs
        again: list[dict[str, Any]] = []
        push(store, f"http://{other.host}/mine/copy:v1", again.append, insecure=True)
        assert figures(again, digest) == [SIZE], "what the registry has is not sent again"
        second = ModelStore(tmp_path / "second")
        pull(second, f"http://{other.host}/mine/copy:v1", insecure=True)
        model = second.resolve(f"{other.host}/mine/copy:v1")
        assert model.system == "Hello."
        assert [(adapter.name, adapter.path.read_bytes()) for adapter in model.adapters] == [("adapter", b"a lora")]
        assert model.draft_path is not None and model.draft_path.read_bytes() == b"small"
