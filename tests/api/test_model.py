"""Where a model may come from: a file, a Modelfile, a name; and what is beside a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interns1_local import Interns1
from interns1_local.config import Settings
from interns1_local.errors import BadRequest, LoadError, ModelNotFound
from interns1_local.nano import CHECKPOINT
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName

SYSTEM = "Speak of molecules."
EXACT: Any = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}


def said(model: str | Path, messages: Any = "hello", **options: Any) -> tuple[str, int]:
    chosen: Any = {"num_ctx": 1024, "num_thread": 1, **options}
    with Interns1(model, options=chosen) as opened:
        answer = opened.chat(messages, **EXACT)
        return answer.content, answer.usage.prompt_tokens


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("start", ["file", "name"])
def test_a_modelfile(tiny_file: Path, tmp_path: Path, isolated_home: Path, start: str) -> None:
    """The answers of the file under the Modelfile's system text; nothing is copied into the store."""
    store = ModelStore(isolated_home / "models")
    if start == "name":
        create(store, ModelName.parse("mine"), ModelPlan(files={"m": tiny_file}))
    source = tiny_file if start == "file" else "mine"
    before = sorted(store.root.rglob("*"))
    modelfile = write(tmp_path / "Modelfile", f"FROM {source}", f"SYSTEM {SYSTEM}", "PARAMETER num_predict 5")
    system = {"role": "system", "content": SYSTEM}
    expected = said(tiny_file, [system, {"role": "user", "content": "hello"}])
    assert said(modelfile) == expected == said(str(modelfile)) and expected != said(tiny_file)
    with Interns1(modelfile, options={"num_ctx": 1024, "num_thread": 1}) as model:
        assert model.chat("hello", ignore_eos=True).usage.output_tokens == 5
    assert sorted(store.root.rglob("*")) == before


def test_a_stored_model(tiny_file: Path, isolated_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(ModelStore(isolated_home / "models"), ModelName.parse("mine"), ModelPlan(files={"m": tiny_file}))
    # A folder of the same name is no model.
    (tmp_path / "work" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert said("mine") == said("mine:latest") == said(tiny_file)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("nothing", ModelNotFound, "model 'nothing' not found in"),
        ("{folder}/none.gguf", ModelNotFound, "there is no file"),
        ("{folder}", ModelNotFound, "is a folder"),
        ("{folder}/Empty", BadRequest, "no FROM line"),
        ("{folder}/FromCheckpoint", BadRequest, "starts from a checkpoint"),
        ("{folder}/FromTwo", BadRequest, "one model file"),
        ("{folder}/FromNothing", ModelNotFound, "nothing"),
    ],
)
def test_mistakes(tiny_file: Path, tmp_path: Path, given: str, error: type[Exception], message: str) -> None:
    write(tmp_path / "Empty", "# nothing")
    write(tmp_path / "FromCheckpoint", f"FROM {CHECKPOINT}")
    (tmp_path / "second.gguf").write_bytes(tiny_file.read_bytes())
    write(tmp_path / "FromTwo", f"FROM {tiny_file}", "FROM ./second.gguf")
    write(tmp_path / "FromNothing", "FROM nothing")
    with pytest.raises(error, match=message):
        Interns1(given.format(folder=tmp_path))
    with pytest.raises(BadRequest, match="mmproj goes with a GGUF file"):
        Interns1("nothing", mmproj=tiny_file)


def test_a_damaged_file(tiny_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_file.read_bytes()[:5000])
    with pytest.raises(LoadError, match="damaged"), Interns1(damaged) as model:
        model.chat("hello")


def test_settings_name_the_place(isolated_home: Path) -> None:
    assert Settings().cache_dir.is_relative_to(isolated_home)
