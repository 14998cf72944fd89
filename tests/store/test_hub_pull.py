"""`pull hf.co/...` and `modelscope.cn/...` from a hub on loopback: GGUF, shards, vision files, and checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from interns1_local.errors import InternS1Error, NotFound
from interns1_local.store import download
from interns1_local.store.hub_pull import pull_from_hub
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.remote import RemoteError
from interns1_local.store.sidecars import SIDECARS
from quant.requantize import COPY, requantize
from quant.splits import read_model
from tests.stock_files import positions, stock_mmproj, stock_model
from tests.store.hub_server import REPOSITORY, Hub, hub_server
from tests.tiny import tiny_interns1

HOSTS = ("hf.co", "modelscope.cn")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_interns1(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as people publish them: two quantizations, one of them in parts, and a vision file."""
    folder = tmp_path_factory.mktemp("repository")
    convert(checkpoint, folder / "Model-Q8_0.gguf", type="Q8_0", mmproj=folder / "mmproj-Model-F16.gguf", jobs=1)
    convert(checkpoint, folder / "whole" / "Model-F16.gguf", type="F16", jobs=1)
    size = (folder / "whole" / "Model-F16.gguf").stat().st_size
    requantize(folder / "whole" / "Model-F16.gguf", folder / "Model-F16.gguf", COPY, split_max_bytes=size // 2, jobs=1)
    (folder / "README.md").write_text("# Model")
    return folder


@pytest.fixture
def hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server(made) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(download.fetch_blob, "__kwdefaults__", {"part_bytes": 20_000, "sleep": lambda seconds: None})
    return ModelStore(tmp_path / "models")


def pulled(store: ModelStore, name: str, quantize: str | None = None) -> list[dict[str, Any]]:
    statuses: list[dict[str, Any]] = []
    pull_from_hub(store, ModelName.parse(name), statuses.append, quantize)
    return statuses


@pytest.mark.parametrize("host", HOSTS)
def test_gguf_and_its_vision_file(store: ModelStore, hub: Hub, made: Path, host: str) -> None:
    hub.cuts = 5
    statuses = pulled(store, f"{host}/{REPOSITORY}:q8_0")
    model = store.resolve(f"{host}/{REPOSITORY}:Q8_0")
    assert model.model_path.read_bytes() == (made / "Model-Q8_0.gguf").read_bytes()
    assert model.mmproj_path is not None and model.config["file_type"] == "Q8_0"
    assert statuses[0] == {"status": "pulling manifest"} and statuses[-1] == {"status": "success"}
    done = [status.get("completed", 0) for status in statuses if status.get("digest") and "pulling" in status["status"]]
    assert max(done) == model.model_path.stat().st_size


def test_parts_become_one_file(store: ModelStore, hub: Hub, made: Path) -> None:
    """Ollama cannot pull these at all."""
    assert len(list(made.glob("Model-F16-0000*.gguf"))) >= 2
    statuses = pulled(store, f"hf.co/{REPOSITORY}:F16")
    assert any(status["status"].startswith("joining") for status in statuses)
    model = store.resolve(f"hf.co/{REPOSITORY}:F16")
    ours, theirs = read_model(model.model_path), read_model(made / "whole" / "Model-F16.gguf")
    assert {t.name: (t.shape, t.type) for t in ours.tensors} == {t.name: (t.shape, t.type) for t in theirs.tensors}
    for one, other in zip(
        sorted(ours.tensors, key=lambda t: t.name), sorted(theirs.tensors, key=lambda t: t.name), strict=True
    ):
        mine = np.fromfile(model.model_path, np.uint8, one.n_bytes, offset=one.offset)
        assert (mine == np.fromfile(theirs.path, np.uint8, other.n_bytes, offset=other.offset)).all()
    assert {store.blobs.path(digest) for digest in store.blobs.digests()} == {
        store.blobs.path(digest) for digest in model.manifest.digests
    }, "the parts have left"


@pytest.mark.parametrize("host", HOSTS)
def test_a_checkpoint_is_converted_as_it_comes(
    store: ModelStore, hub: Hub, checkpoint: Path, tmp_path: Path, host: str
) -> None:
    hub.folder = checkpoint
    pulled(store, f"{host}/{REPOSITORY}", "Q8_0")
    model = store.resolve(f"{host}/{REPOSITORY}")
    assert model.config["file_type"] == "Q8_0" and model.mmproj_path is not None
    convert(checkpoint, tmp_path / "expected.gguf", type="Q8_0", jobs=1)
    ours, expected = read_model(model.model_path), read_model(tmp_path / "expected.gguf")
    for one, other in zip(ours.tensors, expected.tensors, strict=True):
        mine = np.fromfile(model.model_path, np.uint8, one.n_bytes, offset=one.offset)
        assert one.name == other.name
        assert (mine == np.fromfile(expected.path, np.uint8, other.n_bytes, offset=other.offset)).all()
    assert not list(store.root.rglob("*.safetensors")), "the checkpoint is not kept"


def test_what_a_repository_has_beside_its_files(
    store: ModelStore, hub: Hub, made: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Files of the stock converter, with the checkpoint's tokenizer beside them: as good as ours afterwards."""
    hub.folder = tmp_path / "stock"
    hub.folder.mkdir()
    stock_model(made / "Model-Q8_0.gguf", hub.folder / "Model-Q8_0.gguf")
    convert(checkpoint, tmp_path / "m.gguf", type="F32", mmproj=tmp_path / "v.gguf", mmproj_type="F32", jobs=1)
    stock_mmproj(tmp_path / "v.gguf", hub.folder / "mmproj-F32.gguf")
    for path in checkpoint.iterdir():
        if path.name in SIDECARS:
            shutil.copy(path, hub.folder)
    statuses = [status["status"] for status in pulled(store, f"hf.co/{REPOSITORY}:Q8_0")]
    assert any("tokenizer_IUPAC.model" in text for text in statuses)
    model = store.resolve(f"hf.co/{REPOSITORY}:Q8_0")
    assert model.mmproj_path is not None and model.sidecar_path is not None
    assert (positions(model.mmproj_path) == positions(tmp_path / "v.gguf")).all()
    assert set(store.blobs.digests()) == model.manifest.digests, "what it was made from has left"


def test_the_tag_says_the_type(store: ModelStore, hub: Hub, checkpoint: Path) -> None:
    hub.folder = checkpoint
    pulled(store, f"hf.co/{REPOSITORY}:F16")
    assert store.resolve(f"hf.co/{REPOSITORY}:F16").config["file_type"] == "F16"


@pytest.mark.parametrize("host", HOSTS)
def test_unknown_repository(store: ModelStore, hub: Hub, host: str) -> None:
    with pytest.raises(NotFound, match="there is no model lab/other"):
        pulled(store, f"{host}/lab/other")


def test_unknown_quantization(store: ModelStore, hub: Hub) -> None:
    with pytest.raises(InternS1Error, match="has no Q3_K_M; it has F16, Q8_0"):
        pulled(store, f"hf.co/{REPOSITORY}:Q3_K_M")
    assert store.names() == []


def test_what_cannot_be_checked_is_not_taken(store: ModelStore, hub: Hub) -> None:
    hub.hides_digests = True
    with pytest.raises(RemoteError, match="no sha256"):
        pulled(store, f"hf.co/{REPOSITORY}:Q8_0")


def test_no_hub(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    for host in HOSTS:
        with pytest.raises(RemoteError, match=r"could not be asked|cannot be reached"):
            pulled(store, f"{host}/{REPOSITORY}")
