"""Adapters that do not fit are refused with what was given, expected, and what to do; nothing of them stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from interns1_local.errors import BadRequest, Unsupported
from interns1_local.store import manifest as media
from interns1_local.store.adapter import check_adapter
from interns1_local.store.adapter_names import adapter_groups, line_of, upload_names
from interns1_local.store.create import ModelPlan, create, plan_from_modelfile
from interns1_local.store.hub_push import _files
from interns1_local.store.manifest import BrokenManifest, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.modelfile import parse
from interns1_local.store.name import ModelName
from tests.lora_files import Pairs, random_pairs, write_lora

NEW = ModelName.parse("new")
QUERY, EXPERTS, NORM = "blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_norm.weight"
EMBEDDING = "token_embd.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of four tensors, whose embeddings are its output too."""
    return write_model(tmp_path_factory.mktemp("model") / "m.gguf")


def write_model(path: Path, **extra: np.ndarray) -> Path:
    shapes = {QUERY: (24, 16), EXPERTS: (3, 32, 16), NORM: (16,), EMBEDDING: (40, 16)}
    writer = gguf.GGUFWriter(path, "qwen3moe")
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    for name, values in extra.items():
        writer.add_tensor(name.replace("_weight", ".weight"), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def pairs(model: Path) -> Pairs:
    return random_pairs(model, [QUERY, EXPERTS])


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


WRONG_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"type": "model"}, "its general.type is 'model', expected was 'adapter'; a model's own file belongs into FROM"),
    ({"type": None}, "its general.type is None"),
    ({"method": "control_vector"}, "the adapter is of type 'control_vector'; only 'lora' is supported"),
    ({"architecture": "llama"}, "for the architecture 'llama', the model's is 'qwen3moe'"),
    ({"alpha": None}, "lacks the key adapter.lora.alpha"),
    ({"alpha": "8"}, "adapter.lora.alpha is '8'; expected was a finite float32"),
    ({"alpha": float("nan")}, "expected was a finite float32"),
    ({"alpha": 0.0}, "expected was a finite float32 other than 0"),
    ({"invocation": [1, 2]}, "activated LoRA"),
    ({"extra": {"blk.0.attn_q.bias": zeros(24)}}, "'blk.0.attn_q.bias' is not part of a LoRA"),
    ({"extra": {"blk.9.attn_q.weight.lora_a": zeros(4, 16)}}, "the two parts of a LoRA go together"),
    ({"extra": {"blk.0.attn_k.weight.lora_a": np.zeros((4, 16), np.int32)}}, "is I32; expected was F32"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_KEYS)
def test_wrong_kinds(model: Path, pairs: Pairs, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        check_adapter(write_lora(tmp_path / "a.gguf", pairs, **changes), model)


WRONG_TENSORS: list[tuple[Pairs, str]] = [
    ({}, "changes nothing"),
    ({"blk.9.attn_q.weight": (zeros(4, 16), zeros(24, 4))}, "'blk.9.attn_q.weight', which the model does not have"),
    ({QUERY: (zeros(4, 15), zeros(24, 4))}, r"asks for \[4, 16\] and \[24, 4\]: was it made for this model"),
    ({QUERY: (zeros(4, 16), zeros(25, 4))}, "asks for"),
    ({QUERY: (zeros(5, 16), zeros(24, 4))}, "asks for"),
    ({QUERY: (zeros(16, 4), zeros(4, 24))}, "asks for"),
    ({QUERY: (zeros(3, 4, 16), zeros(3, 24, 4))}, "asks for"),
    ({QUERY: (zeros(16), zeros(24))}, "asks for"),
    # llama.cpp does not look at the number of experts.
    ({EXPERTS: (zeros(2, 4, 16), zeros(2, 32, 4))}, r"asks for \[3, 4, 16\] and \[3, 32, 4\]"),
    ({EXPERTS: (zeros(4, 16), zeros(32, 4))}, "asks for"),
    ({NORM: (zeros(4, 16), zeros(16, 4))}, "which is no matrix"),
    ({EMBEDDING: (zeros(40, 4), zeros(16, 4))}, "which is the model's output matrix as well"),
]


@pytest.mark.parametrize(("pairs", "message"), WRONG_TENSORS)
def test_wrong_tensors(model: Path, tmp_path: Path, pairs: Pairs, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        check_adapter(write_lora(tmp_path / "a.gguf", pairs), model)


def test_embeddings_are_turned(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.gguf", output_weight=zeros(40, 16))
    check_adapter(write_lora(tmp_path / "a.gguf", {EMBEDDING: (zeros(40, 4), zeros(16, 4))}), model)
    for number, pair in enumerate([(zeros(4, 16), zeros(40, 4)), (zeros(40, 4), zeros(16, 5))]):
        with pytest.raises(BadRequest, match="asks for"):
            check_adapter(write_lora(tmp_path / f"{number}.gguf", {EMBEDDING: pair}), model)


def test_every_truncation_is_refused(model: Path, pairs: Pairs, tmp_path: Path) -> None:
    whole = write_lora(tmp_path / "a.gguf", pairs).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole) - 32, 61):
        cut.write_bytes(whole[:length])
        with pytest.raises(BadRequest):
            check_adapter(cut, model)


def test_norms_are_passed_over_with_a_warning(model: Path, pairs: Pairs, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.gguf", pairs, extra={NORM: zeros(16)})
    assert check_adapter(path, model) == ["llama.cpp does not apply the adapter's 1 norm weights (" + NORM + " ...)"]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_a_refused_adapter_leaves_nothing(store: ModelStore, model: Path, tmp_path: Path) -> None:
    bad = write_lora(tmp_path / "a.gguf", {QUERY: (zeros(4, 15), zeros(24, 4))})
    with pytest.raises(BadRequest):
        create(store, NEW, ModelPlan(files={"m": model}, adapters={"a": {"a": bad}}))
    assert store.names() == [] and not store.blobs.digests()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a.gguf", "b.gguf"), "an adapter is one GGUF file, not a.gguf, b.gguf"),
        (("a.safetensors", "b.safetensors"), "one safetensors file, not a.safetensors, b.safetensors; give each a"),
        (("adapter_config.json",), "hold no weights"),
    ],
)
def test_sets_of_files(store: ModelStore, model: Path, tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        create(store, NEW, ModelPlan(files={"m": model}, adapters={"a": {name: tmp_path / name for name in files}}))


def test_from_a_modelfile(store: ModelStore, model: Path, pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    path = write_lora(tmp_path / "lora" / "a.gguf", pairs)

    def make(name: str, text: str) -> Any:
        return create(store, ModelName.parse(name), plan_from_modelfile(store, parse(text), tmp_path))

    made = make("new", f"FROM {model}\nADAPTER ./lora/a.gguf")
    (adapter,) = made.adapters
    assert adapter.name == "a" and adapter.path.read_bytes() == path.read_bytes()
    assert make("folder", f"FROM {model}\nADAPTER ./lora").adapters == (replace(adapter, name="lora"),)
    assert make("inherits", "FROM new\nSYSTEM x").adapters == made.adapters
    with pytest.raises(Unsupported, match="merge the adapter"):
        _files(made)


def test_several_from_a_modelfile(store: ModelStore, model: Path, pairs: Pairs, tmp_path: Path) -> None:
    (tmp_path / "AS one").mkdir()
    write_lora(tmp_path / "AS one" / "a.gguf", pairs)
    write_lora(tmp_path / "b.GGUF", pairs, alpha=4.0)
    text = f"FROM {model}\nADAPTER AS one/a.gguf\nADAPTER ./b.GGUF as molecules, small\nADAPTER b.GGUF\n"
    text += "PARAMETER adapter b\nPARAMETER adapter_scale 0.5\n"

    def make(name: str, text: str) -> Any:
        return create(store, ModelName.parse(name), plan_from_modelfile(store, parse(text), tmp_path))

    made = make("new", text)
    assert [adapter.name for adapter in made.adapters] == ["a", "molecules, small", "b"]
    assert (made.params["adapter"], made.params["adapter_scale"]) == ("b", 0.5)
    # What `show` prints makes the same model again.
    lines = "".join(f"ADAPTER {line_of(adapter)}\n" for adapter in made.adapters)
    assert make("again", f"FROM {model}\n{lines}").adapters == made.adapters
    assert make("fewer", f"FROM {model}\nADAPTER b.GGUF\nPARAMETER adapter none").adapters == made.adapters[2:]
    for more, message in (
        ("ADAPTER b.GGUF AS a\nADAPTER AS one/a.gguf", "two adapters are called 'a'"),
        ("ADAPTER b.GGUF AS None", "cannot be called 'None': in a request this means the model without"),
        ("ADAPTER b.GGUF AS x/y", "cannot be called 'x/y'"),
        (f"ADAPTER b.GGUF AS {'x' * 81}", "at most 80 characters"),
        ("ADAPTER c.gguf AS c", "ADAPTER c.gguf: there is no such file"),
        ("ADAPTER b.GGUF\nPARAMETER adapter c", "the model has no adapter of this name; it has b"),
        ("PARAMETER adapter c", "the model has no adapter of this name; it has none"),
    ):
        with pytest.raises(BadRequest, match=message):
            make("wrong", f"FROM {model}\n{more}")
    with pytest.raises(BadRequest, match="PARAMETER adapter b: the model has no adapter of this name; it has a"):
        make("wrong", "FROM new\nADAPTER AS one/a.gguf")


GROUPS: list[tuple[list[str], dict[str, list[str]]]] = [
    (["lora.gguf"], {"lora": ["lora.gguf"]}),
    (["one/x.gguf", "two/y.gguf"], {"x": ["x.gguf"], "y": ["y.gguf"]}),
    (["adapter_config.json", "adapter_model.safetensors"],
     {"adapter": ["adapter_config.json", "adapter_model.safetensors"]}),
    (["p/adapter_config.json", "p/w.safetensors", "q/adapter_config.json", "q/w.safetensors", "r.gguf", "README.md"],
     {"r": ["r.gguf"], "p": ["adapter_config.json", "w.safetensors"], "q": ["adapter_config.json", "w.safetensors"]}),
    (["adapter_config.json"], {"adapter": ["adapter_config.json"]}),
]  # fmt: skip


@pytest.mark.parametrize(("names", "groups"), GROUPS)
def test_uploaded_files_are_told_apart_by_their_names(names: list[str], groups: dict[str, list[str]]) -> None:
    found = adapter_groups({name: Path(f"/blobs/{index}") for index, name in enumerate(names)})
    assert {name: list(files) for name, files in found.items()} == groups
    assert adapter_groups(upload_names(found)) == found


def test_a_manifest_with_two_is_refused(store: ModelStore, model: Path, pairs: Pairs, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.gguf", pairs)
    made = create(store, NEW, ModelPlan(files={"m": model}, adapters={"a": {"a": path}}))
    layers = [replace(layer, extra={}) for layer in made.manifest.layers]
    layers.append(store.add_layer(media.ADAPTER, b"other"))
    store.write(NEW, Manifest(made.manifest.config, tuple(layers)))
    with pytest.raises(BrokenManifest, match="2 adapters, which have no names to choose one by"):
        store.resolve(NEW)
