"""Draft models: from a Modelfile, kept by what is made from the model, refused when their vocabulary is another."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from interns1_local.config import load_settings
from interns1_local.errors import BadRequest
from interns1_local.runners.default_draft import with_default_draft
from interns1_local.runners.model_spec import ModelSpec
from interns1_local.store.create import create, plan_from_modelfile
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.modelfile import parse
from interns1_local.store.name import ModelName
from tests.server.fake_runner import TOKENS, write_gguf


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "model.gguf")
    write_gguf(tmp_path / "small.gguf", temp=0.5)
    write_gguf(tmp_path / "other.gguf", tokens=["x", *TOKENS[1:]])
    write_gguf(tmp_path / "large.gguf", tokens=[*TOKENS, *(f"t{number}" for number in range(1100))])
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    return tmp_path


def make(store: ModelStore, name: str, text: str, folder: Path) -> StoredModel:
    return create(store, ModelName.parse(name), plan_from_modelfile(store, parse(text), folder))


def test_from_a_modelfile(store: ModelStore, folder: Path) -> None:
    made = make(store, "new", "FROM ./model.gguf\nDRAFT ./small.gguf", folder)
    assert made.draft_path is not None
    assert made.draft_path.read_bytes() == (folder / "small.gguf").read_bytes()
    assert make(store, "inherits", "FROM new\nSYSTEM x", folder).draft_path == made.draft_path
    make(store, "small", "FROM ./small.gguf", folder)
    assert make(store, "named", "FROM ./model.gguf\nDRAFT small", folder).draft_path == made.draft_path
    spec = ModelSpec.of(made)
    assert spec.draft_path == made.draft_path
    assert spec.size == made.model_path.stat().st_size + made.draft_path.stat().st_size


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        ("./other.gguf", r"the draft model's token 0 is 'x' and the model's is '<\|im_start\|>': give a smaller model"),
        ("./large.gguf", "the draft model has 1106 tokens and the model has 6"),
        ("./junk.gguf", "not in GGUF format"),
        ("./missing.gguf", "there is no such file"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    store: ModelStore, folder: Path, draft: str, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        make(store, "new", f"FROM ./model.gguf\nDRAFT {draft}", folder)
    assert store.names() == [] and not store.blobs.digests()


def test_the_environment_names_one_for_models_that_it_suits(
    store: ModelStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def draft(model: str, name: str) -> Path | None:
        settings = load_settings({"INTERNS1_DRAFT": name, "INTERNS1_MODELS": str(store.root)})
        return with_default_draft(ModelSpec(model, "", folder / model), settings).draft_path

    small = folder / "small.gguf"
    stored = make(store, "small", "FROM ./small.gguf", folder)
    assert draft("model.gguf", str(small)) == small
    assert draft("model.gguf", "small") == stored.model_path
    assert draft("small.gguf", str(small)) is None
    assert draft("model.gguf", "") is None
    caplog.set_level(logging.WARNING)
    assert draft("other.gguf", str(small)) is None
    assert draft("model.gguf", "nothing") is None
    assert "goes without INTERNS1_DRAFT" in caplog.text and "model 'nothing' not found" in caplog.text
