"""Making models: from GGUF files, a checkpoint, another model; quantized; and nothing left behind by a failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interns1_local.errors import BadRequest, InternS1Error, ModelNotFound, NotFound
from interns1_local.store.create import ModelPlan, create, human_count, plan_from_modelfile
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.modelfile import parse
from interns1_local.store.name import ModelName
from interns1_local.store.nano import is_nano, pull_nano
from quant.gguf_file import read_metadata
from tests.server.fake_runner import write_gguf, write_mmproj
from tests.tiny import tiny_interns1

NEW = ModelName.parse("new")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "模型")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_interns1(tmp_path_factory.mktemp("checkpoint") / "tiny")


def from_modelfile(store: ModelStore, text: str, folder: Path, quantize: str | None = None) -> StoredModel:
    return create(store, NEW, plan_from_modelfile(store, parse(text), folder, quantize))


def test_from_gguf_files(store: ModelStore, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    write_mmproj(tmp_path / "p.gguf")
    text = "FROM ./p.gguf\nFROM m.gguf\nSYSTEM S\nPARAMETER top_k 3\nLICENSE L\nMESSAGE user hi\nREQUIRES 0.14.0"
    model = from_modelfile(store, text, tmp_path)
    assert (model.system, model.license, model.params) == ("S", "L", {"top_k": 3})
    assert model.messages == [{"role": "user", "content": "hi"}]
    assert model.mmproj_path is not None
    assert model.model_path.read_bytes() == (tmp_path / "m.gguf").read_bytes()
    config: dict[str, Any] = {
        "model_format": "gguf", "model_family": "qwen3", "model_families": ["qwen3", "clip"], "model_type": "192",
        "file_type": "F16", "context_length": 8192, "embedding_length": 32, "requires": "0.14.0", "os": "linux",
    }  # fmt: skip
    assert config.items() <= model.config.items()


def test_from_a_model(store: ModelStore, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    text = "FROM m.gguf\nSYSTEM old\nTEMPLATE {{ messages }}\nPARAMETER top_k 3\nPARAMETER num_ctx 512\nLICENSE A"
    create(store, ModelName.parse("base"), plan_from_modelfile(store, parse(text), tmp_path))
    model = from_modelfile(store, 'FROM base\nSYSTEM ""\nPARAMETER top_k 9\nLICENSE B', tmp_path)
    assert (model.system, model.template) == ("", "{{ messages }}")
    assert model.params == {"top_k": 9, "num_ctx": 512}
    assert model.licenses == ["A", "B"]
    assert store.resolve("base").system == "old"


def test_from_a_checkpoint(store: ModelStore, checkpoint: Path) -> None:
    seen: list[dict[str, Any]] = []
    plan = plan_from_modelfile(store, parse(f"FROM {checkpoint}"), Path("/"), "q8_0")
    model = create(store, NEW, plan, seen.append)
    assert model.config["file_type"] == "Q8_0"
    assert model.mmproj_path is not None
    assert read_metadata(model.mmproj_path).architecture == "clip"
    texts = [status["status"] for status in seen]
    assert texts[0] == "converting model to Q8_0"
    assert texts[-2:] == ["writing manifest", "success"]
    assert seen[0]["total"] >= seen[0]["completed"]
    files = {path.name: path for path in checkpoint.iterdir()}
    again = create(store, ModelName.parse("tiny"), ModelPlan(files=files, quantize="Q8_0"))
    assert again.model_path == model.model_path


def test_quantize_a_model(store: ModelStore, checkpoint: Path) -> None:
    base = create(store, ModelName.parse("base"), ModelPlan(folder=checkpoint, system="S", config={"parser": "p"}))
    assert base.config["file_type"] == "BF16"
    model = create(store, NEW, ModelPlan(base=base, quantize="Q4_K_M"))
    assert (model.config["file_type"], model.config["parser"], model.system) == ("Q4_K_M", "p", "S")
    assert model.model_path.stat().st_size < base.model_path.stat().st_size
    with pytest.raises(InternS1Error, match="only supported for F16, BF16 and F32 models"):
        create(store, NEW, ModelPlan(base=model, quantize="Q8_0"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("FROM nope", ModelNotFound, "model 'nope' not found"),
        ("FROM ./m.gguf\nADAPTER x", BadRequest, "ADAPTER x: there is no such file or folder"),
        ("FROM ./m.gguf\nDRAFT ./x.gguf", BadRequest, "DRAFT ./x.gguf: there is no such file"),
        ("FROM ./m.gguf\nDRAFT x", ModelNotFound, "model 'x' not found"),
        ("FROM ./m.gguf\nADAPTER ./m.gguf", BadRequest, "the file given as adapter is none"),
        ("FROM ./m.gguf\nADAPTER ./junk.gguf", BadRequest, "supplied file was not in GGUF format"),
        ("FROM ./m.gguf\nADAPTER ./empty", BadRequest, "this folder holds no adapter"),
        ("FROM ./m.gguf\nFROM ./missing.gguf", BadRequest, "FROM ./missing.gguf: there is no such file"),
        ("FROM ./m.gguf\nFROM ./m2.gguf", BadRequest, "given were 2 model files and 0 projectors"),
        ("FROM ./p.gguf", BadRequest, "given were 0 model files and 1 projectors"),
        ("FROM ./empty", BadRequest, "holds neither safetensors nor GGUF files"),
        ("FROM ./junk.gguf", BadRequest, "supplied file was not in GGUF format"),
        ("FROM ./broken", BadRequest, "config.json"),
    ],
)
def test_errors_leave_nothing_behind(
    store: ModelStore, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    write_gguf(tmp_path / "m.gguf")
    write_mmproj(tmp_path / "p.gguf")
    write_gguf(tmp_path / "m2.gguf")
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(error, match=message):
        from_modelfile(store, text, tmp_path)
    assert store.names() == []
    assert not any(path.name.endswith("-partial") for path in store.root.rglob("*"))


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/../../x.safetensors", "C:\\x.safetensors"])
def test_names_of_uploaded_files_stay_inside(store: ModelStore, tmp_path: Path, name: str) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"x")
    with pytest.raises(BadRequest, match="file path must be relative"):
        create(store, NEW, ModelPlan(files={name: blob}))


def test_pull_nano(store: ModelStore, checkpoint: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    model = pull_nano(store, seen.append, checkpoint)
    assert model.name.short == "nano:latest"
    assert model.config["file_type"] == "Q8_0"
    assert model.mmproj_path is not None
    texts = [status["status"] for status in seen]
    assert (texts[0], texts[-1]) == ("pulling manifest", "success")
    assert "verifying sha256 digest" in texts
    assert pull_nano(store, checkpoint=checkpoint).digest == model.digest
    with pytest.raises(NotFound, match="shipped checkpoint is missing"):
        pull_nano(store, checkpoint=tmp_path)
    assert is_nano("NANO:latest")
    assert not is_nano("nano:q4")


@pytest.mark.parametrize(
    ("count", "text"),
    [(192, "192"), (1_500, "1.50K"), (6_000_000, "6.00M"), (8_190_735_360, "8.19B"), (241_000_000_000, "241B"),
     (12_340_000_000, "12.3B")],
)  # fmt: skip
def test_human_count(count: int, text: str) -> None:
    assert human_count(count) == text
