"""`interns1 create`: the Modelfile becomes blobs and one request."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.commands.conftest import Invoke
from tests.commands.fake_server import FakeServer


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_model_with_settings(fake: FakeServer, invoke: Invoke, folder: Path) -> None:
    (folder / "Modelfile").write_text(
        'FROM nano\nPARAMETER temperature 0.5\nPARAMETER stop A\nSYSTEM """Be\nbrief."""\n'
        "MESSAGE user hi\nLICENSE MIT\n"
    )
    fake.statuses = [{"status": "writing manifest"}, {"status": "success"}]
    result = invoke("create", "mine", "-q", "Q4_K_M")
    assert (result.exit_code, result.stderr) == (0, "gathering model components\nwriting manifest\nsuccess\n")
    assert fake.asked("/api/create") == [
        {
            "model": "mine",
            "from": "nano",
            "quantize": "Q4_K_M",
            "system": "Be\nbrief.",
            "license": ["MIT"],
            "parameters": {"temperature": 0.5, "stop": ["A"]},
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
        }
    ]


def test_from_gguf_files(fake: FakeServer, invoke: Invoke, folder: Path) -> None:
    (folder / "files").mkdir()
    (folder / "files" / "model.gguf").write_text("model")
    (folder / "files" / "mmproj.gguf").write_text("vision")
    (folder / "files" / "Modelfile").write_text("FROM ./model.gguf\nFROM mmproj.gguf\n")
    fake.blobs[digest("vision")] = b"vision"
    assert invoke("create", "mine", "-f", "files/Modelfile").exit_code == 0
    [request] = fake.asked("/api/create")
    assert request["files"] == {"model.gguf": digest("model"), "mmproj.gguf": digest("vision")}
    assert "from" not in request
    assert fake.blobs == {digest("vision"): b"vision", digest("model"): b"model"}


@pytest.mark.parametrize("source", ["FROM ./files/model.gguf\nFROM other/mmproj.gguf", "FROM files"])
def test_what_lies_beside_a_gguf_comes_along(fake: FakeServer, invoke: Invoke, folder: Path, source: str) -> None:
    for name in ("files/model.gguf", "files/tokenizer_SMILES.model", "files/chat_template.jinja", "files/notes.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "other").mkdir()
    for name in ("other/mmproj.gguf", "other/chat_template.jinja"):
        (folder / name).write_text(name)
    (folder / "Modelfile").write_text(source)
    assert invoke("create", "mine").exit_code == 0
    files = fake.asked("/api/create")[0]["files"]
    expected = {
        name: digest(f"files/{name}") for name in ("model.gguf", "tokenizer_SMILES.model", "chat_template.jinja")
    }
    if "other" in source:
        expected["mmproj.gguf"] = digest("other/mmproj.gguf")
    assert files == expected


def test_from_a_checkpoint(fake: FakeServer, invoke: Invoke, folder: Path) -> None:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    wanted = ["config.json", "chat_template.jinja", "tokenizer_SMILES.model", "merges.txt", "model-1.safetensors"]
    for name in [*wanted, "README.md", "modeling.py", "pytorch_model.bin"]:
        (checkpoint / name).write_text(name)
    (folder / "Modelfile").write_text("FROM ./checkpoint\n")
    assert invoke("create", "mine").exit_code == 0
    assert fake.asked("/api/create")[0]["files"] == {name: digest(name) for name in wanted}


@pytest.mark.parametrize(
    ("modelfile", "message"),
    [
        (None, "specified Modelfile wasn't found"),
        ("FROM ./none.gguf\n", "there is no file or folder"),
        ("FROM .\n", "there are no safetensors or GGUF files in"),
        ("SYSTEM hi\n", "no FROM line"),
        ("FROM a\nFROM b\n", "a model comes from one model only, not from a and b"),
        ("FROM a\nNONSENSE x\n", "(line 2): command must be one of"),
    ],
)
def test_mistakes(modelfile: str | None, message: str, fake: FakeServer, invoke: Invoke, folder: Path) -> None:
    if modelfile is not None:
        (folder / "Modelfile").write_text(modelfile)
    result = invoke("create", "mine")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert fake.asked("/api/create") == []


def test_the_modelfile_may_come_from_stdin(fake: FakeServer, invoke: Invoke, folder: Path) -> None:
    assert invoke("create", "mine", "-f", "-", stdin="FROM nano\n").exit_code == 0
    assert fake.asked("/api/create")[0]["from"] == "nano"
