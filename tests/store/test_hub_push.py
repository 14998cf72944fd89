"""`push hf.co/...` to a hub on loopback that speaks the upload protocol, and the way back by `pull`."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from convert.hf_to_gguf import convert
from interns1_local.errors import InternS1Error, Unsupported
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.hub_pull import pull_from_hub
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.pull import push
from interns1_local.store.remote import RemoteError
from tests.loopback import serving
from tests.store.hub_server import REPOSITORY, hub_server
from tests.tiny import tiny_interns1


class Uploads(BaseHTTPRequestHandler):
    """Large files by Git LFS, small ones inside the commit."""

    protocol_version = "HTTP/1.1"
    folder: Path
    objects: dict[str, bytes]
    refuses = False

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.refuses or self.headers.get("authorization") != "Bearer hf_mine":
            self._answer(403, {"error": "You have no right to write here"})
        elif path == "/api/repos/create":
            self._answer(200, {"url": f"http://{self.headers['host']}/{REPOSITORY}", "id": REPOSITORY})
        elif "/preupload/" in path:
            files = [{"path": f["path"], "uploadMode": "lfs", "shouldIgnore": False} for f in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(200, {"transfer": "basic", "objects": [self._place(o) for o in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            for line in body.splitlines():
                self._commit(json.loads(line))
            url = f"http://{self.headers['host']}/{REPOSITORY}/commit/{'beef' * 10}"
            self._answer(200, {"commitUrl": url, "commitOid": "beef" * 10, "success": True})
        else:
            self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        self.objects[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, {})

    def do_GET(self) -> None:
        self._answer(404, {"error": self.path})

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        host = f"http://{self.headers['host']}/objects/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": host, "header": {}}}}

    def _commit(self, entry: dict[str, Any]) -> None:
        value = entry["value"]
        if entry["key"] == "lfsFile":
            data = self.objects[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"]
            (self.folder / value["path"]).write_bytes(data)
        elif entry["key"] == "file":
            (self.folder / value["path"]).write_bytes(b64decode(value["content"]))

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Uploads]]:
    folder = tmp_path / "hub"
    folder.mkdir()
    handler = type("Handler", (Uploads,), {"folder": folder, "objects": {}})
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serving(handler) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield handler


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    convert(tiny_interns1(tmp_path / "tiny"), tmp_path / "m.gguf", type="Q8_0", mmproj=tmp_path / "p.gguf", jobs=1)
    store = ModelStore(tmp_path / "models")
    files = {"m.gguf": tmp_path / "m.gguf", "p.gguf": tmp_path / "p.gguf"}
    create(store, ModelName.parse(f"hf.co/{REPOSITORY}:Q8_0"), ModelPlan(files=files))
    return store


# huggingface_hub hands bytes to httpx in a way that httpx wants no more.
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_push_and_pull_back(store: ModelStore, uploads: type[Uploads], tmp_path: Path, monkeypatch: Any) -> None:
    statuses: list[dict[str, Any]] = []
    name = ModelName.parse(f"hf.co/{REPOSITORY}:Q8_0")
    create(store, name, ModelPlan(base=store.resolve(name), draft={"d.gguf": tmp_path / "m.gguf"}))
    push(store, f"hf.co/{REPOSITORY}:Q8_0", statuses.append)
    assert statuses[0] == {"status": "retrieving manifest"} and statuses[-1] == {"status": "success"}
    assert any("leaving out the draft model" in status["status"] for status in statuses)
    assert sorted(path.name for path in uploads.folder.iterdir()) == ["Model-Q8_0.gguf", "mmproj-Model-Q8_0.gguf"]
    with hub_server(uploads.folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        second = ModelStore(tmp_path / "second")
        pull_from_hub(second, ModelName.parse(f"hf.co/{REPOSITORY}:q8_0"), lambda status: None)
    ours, theirs = (s.resolve(f"hf.co/{REPOSITORY}:Q8_0") for s in (store, second))
    assert ours.model_path.read_bytes() == theirs.model_path.read_bytes()
    assert theirs.mmproj_path is not None


def test_refused(store: ModelStore, uploads: type[Uploads], monkeypatch: pytest.MonkeyPatch) -> None:
    uploads.refuses = True
    with pytest.raises(RemoteError, match=r"no right to write|403"):
        push(store, f"hf.co/{REPOSITORY}:Q8_0")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InternS1Error, match="set HF_TOKEN"):
        push(store, f"hf.co/{REPOSITORY}:Q8_0")
    store.copy(f"hf.co/{REPOSITORY}:Q8_0", f"modelscope.cn/{REPOSITORY}")
    with pytest.raises(Unsupported, match="ModelScope only gives"):
        push(store, f"modelscope.cn/{REPOSITORY}")
