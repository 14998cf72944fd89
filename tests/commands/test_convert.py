"""`interns1 convert` and `interns1 quantize` on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.gguf_file import read_metadata
from tests.commands.conftest import Invoke
from tests.tiny import tiny_interns1


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_interns1(tmp_path / "checkpoint")
    return Path("checkpoint")


def test_convert_then_quantize(checkpoint: Path, invoke: Invoke) -> None:
    result = invoke(
        "convert", str(checkpoint), "-o", "f16.gguf", "--type", "f16", "--mmproj", "mmproj.gguf", "--jobs", "1"
    )
    assert result.exit_code == 0, result.output
    header, model, mmproj, done = result.stdout.splitlines()
    assert header.split() == ["FILE", "SIZE", "TENSORS"]
    assert model.split()[0] == "f16.gguf"
    assert " F16" in model
    assert mmproj.split()[0] == "mmproj.gguf"
    assert done.startswith("done in ")

    result = invoke("quantize", "f16.gguf", "q8.gguf", "Q8_0")
    assert result.exit_code == 0, result.output
    assert " Q8_0" in result.stdout
    assert Path("q8.gguf").stat().st_size < Path("f16.gguf").stat().st_size
    types = {tensor.type for tensor in read_metadata(Path("q8.gguf")).tensors}
    assert "Q8_0" in {str(getattr(each, "name", each)) for each in types}


def test_files_are_overwritten_only_by_force(checkpoint: Path, invoke: Invoke) -> None:
    Path("model.gguf").write_text("precious")
    arguments = ("convert", str(checkpoint), "-o", "model.gguf")
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (1, "Error: model.gguf exists; --force overwrites it\n")
    assert Path("model.gguf").read_text() == "precious"
    assert invoke(*arguments, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "nowhere", "-o", "x.gguf"], "there is no folder nowhere"),
        (["convert", "checkpoint", "-o", "no/x.gguf"], "there is no folder"),
        (["convert", "checkpoint", "-o", "x.gguf", "--type", "Q4_KM"], "there is no quantization type 'Q4_KM'"),
        (["convert", ".", "-o", "x.gguf"], ""),
        (["quantize", "nowhere.gguf", "x.gguf", "Q8_0"], "there is no file nowhere.gguf"),
        (["quantize", "checkpoint/config.json", "x.gguf", "Q8_0"], ""),
        (["quantize", "checkpoint/config.json", "checkpoint/config.json", "Q8_0"], "IN and OUT are the same file"),
    ],
)
def test_mistakes(arguments: list[str], message: str, checkpoint: Path, invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stderr.lower().startswith(f"error: {message}".lower())
    assert "unexpected" not in result.stderr
    assert not Path("x.gguf").exists()
