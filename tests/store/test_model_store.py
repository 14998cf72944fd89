"""The models folder: layout, listing, copying, deleting, pruning, and damaged files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from interns1_local.errors import InternS1Error, ModelNotFound
from interns1_local.store import manifest as media
from interns1_local.store.manifest import Layer, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, name: str, model: bytes = b"model", **layers: bytes) -> Manifest:
    made = [store.add_layer(media.MODEL, model)]
    made += [store.add_layer(f"application/vnd.ollama.image.{kind}", data) for kind, data in layers.items()]
    config = store.add_layer(media.CONFIG_TYPE, b'{"model_family":"qwen3"}')
    manifest = Manifest(config, tuple(made))
    store.write(ModelName.parse(name), manifest)
    return manifest


def test_layout_is_ollamas(store: ModelStore) -> None:
    add(store, "internlm/interns1:q4", system=b"S")
    path = store.root / "manifests/registry.ollama.ai/internlm/interns1/q4"
    document = json.loads(path.read_bytes())
    assert document["schemaVersion"] == 2
    assert [layer["mediaType"] for layer in document["layers"]] == [
        "application/vnd.ollama.image.model",
        "application/vnd.ollama.image.system",
    ]
    digest = document["layers"][0]["digest"]
    assert (store.root / "blobs" / digest.replace(":", "-")).read_bytes() == b"model"


def test_everything_of_a_model_is_read(store: ModelStore) -> None:
    add(
        store, "m", projector=b"p", template=b"T", system=b"S", license=b"L",
        params=b'{"top_k": 3}', messages=b'[{"role": "user", "content": "x"}]',
    )  # fmt: skip
    model = store.resolve("M")
    assert (model.template, model.system, model.license, model.params) == ("T", "S", "L", {"top_k": 3})
    assert model.messages == [{"role": "user", "content": "x"}]
    assert model.model_path.read_bytes() == b"model"
    assert model.mmproj_path is not None
    assert model.mmproj_path.read_bytes() == b"p"
    assert model.config["model_family"] == "qwen3"
    assert model.size == sum(layer.size for layer in model.manifest.layers) + model.manifest.config.size


def test_what_a_manifest_says_beyond_us_survives(store: ModelStore) -> None:
    layer = {"mediaType": "m", "digest": "sha256:" + "0" * 64, "size": 1, "from": "/x", "name": "tensor"}
    manifest = Manifest.from_bytes(json.dumps({"config": layer, "layers": [layer]}).encode())
    assert json.loads(manifest.to_bytes())["layers"] == [layer]


def test_names_are_found_in_any_case_and_kept(store: ModelStore) -> None:
    add(store, "Nano")
    add(store, "nano", b"newer")
    assert [name.short for name in store.names()] == ["Nano:latest"]
    assert store.resolve("NANO:LATEST").model_path.read_bytes() == b"newer"
    assert b"model" not in [store.blobs.read(digest) for digest in store.blobs.digests()]


def test_shared_blobs_outlive_one_of_their_models(store: ModelStore) -> None:
    add(store, "a", system=b"one")
    store.copy("a", "b")
    add(store, "c", system=b"two")
    store.delete("a")
    assert store.resolve("b").system == "one"
    store.delete("b")
    contents = {store.blobs.read(digest) for digest in store.blobs.digests()}
    assert contents == {b"model", b"two", b'{"model_family":"qwen3"}'}
    store.delete("c")
    assert store.blobs.digests() == []
    assert list((store.root / "manifests").rglob("*")) == []


def test_unknown_models(store: ModelStore) -> None:
    for action in (store.resolve, store.delete, lambda name: store.copy(name, "b")):
        with pytest.raises(ModelNotFound, match="model 'nope' not found"):
            action("nope")
    assert store.list() == []


def test_newest_first(store: ModelStore) -> None:
    for age, name in enumerate(("new", "old", "oldest")):
        add(store, name)
        path = store.root / "manifests/registry.ollama.ai/library" / name / "latest"
        os.utime(path, (time.time() - 100 * age,) * 2)
    assert [model.name.model for model in store.list()] == ["new", "old", "oldest"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"config": 1}', b'{"config": {"digest": "x"}}'])
def test_a_damaged_manifest_hides_only_itself(store: ModelStore, damage: bytes) -> None:
    add(store, "good")
    add(store, "bad", b"other")
    (store.root / "manifests/registry.ollama.ai/library/bad/latest").write_bytes(damage)
    assert [model.name.model for model in store.list()] == ["good"]
    with pytest.raises(InternS1Error, match="not a model manifest"):
        store.resolve("bad")
    # While a manifest cannot be read, nobody knows what it uses: nothing is removed.
    assert store.prune(now=time.time() + 10**6) == 0
    store.delete("bad")
    assert [name.model for name in store.names()] == ["good"]


def test_a_manifest_cannot_name_files_outside(store: ModelStore) -> None:
    manifest = add(store, "m")
    evil = Layer(media.MODEL, "sha256:../../../etc/passwd", 1)
    path = store.root / "manifests/registry.ollama.ai/library/m/latest"
    path.write_bytes(Manifest(manifest.config, (evil,)).to_bytes())
    with pytest.raises(InternS1Error, match="invalid digest format"):
        store.resolve("m")


def test_a_blob_that_vanished_is_noticed_before_the_manifest(store: ModelStore) -> None:
    manifest = add(store, "a")
    store.delete("a")
    with pytest.raises(InternS1Error, match="vanished"):
        store.write(ModelName.parse("b"), manifest)
    assert store.names() == []


def test_prune(store: ModelStore) -> None:
    add(store, "m")
    orphan, _ = store.blobs.add(b"orphan")
    partial = store.blobs.folder / "sha256-abc-partial"
    ours = store.blobs.folder / "interns1-x-partial"
    for path in (partial, ours):
        path.write_bytes(b"half")
    assert store.prune() == 0
    assert store.prune(now=time.time() + 7200) == 1
    assert not store.blobs.has(orphan)
    assert partial.exists()
    assert ours.exists()
    store.prune(now=time.time() + 30 * 86400)
    assert partial.exists()
    assert not ours.exists()
    assert store.resolve("m").model_path.exists()
