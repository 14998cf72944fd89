"""`interns1 convert` and `interns1 quantize`: plans without output, parts, longer contexts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quant.gguf_file import read_metadata
from quant.splits import read_model
from tests.commands.conftest import Invoke
from tests.tiny_internlm import CONTEXT, tiny_internlm2


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(tiny_internlm2(Path("checkpoint")))


def test_a_plan_of_a_conversion(checkpoint: str, invoke: Invoke) -> None:
    arguments = ("convert", checkpoint, "-o", "m.gguf", "--type", "q8_0", "--split-max-size", "50000")
    table = invoke(*arguments, "--dry-run")
    assert table.exit_code == 0, table.output
    assert "token_embd.weight" in table.stdout and "m-00001-of-" in table.stdout and "memory: about" in table.stdout
    plan = json.loads(invoke(*arguments, "--dry-run", "--json").stdout)
    assert not list(Path().glob("*.gguf"))
    assert invoke(*arguments).exit_code == 0
    written = {path.name: path.stat().st_size for path in Path().glob("*.gguf")}
    assert {file["path"]: file["bytes"] for file in plan["files"]} == written
    planned = {tensor["name"]: tensor for file in plan["files"] for tensor in file["tensors"]}
    model = read_model(f"m-00001-of-{len(written):05d}.gguf")
    assert {t.name: (t.type, list(t.shape), t.n_bytes) for t in model.tensors} == {
        name: (tensor["type"], tensor["shape"], tensor["bytes"]) for name, tensor in planned.items()
    }
    assert plan["memory_bytes"] > 10**6
    again = invoke(*arguments)
    assert again.exit_code == 1 and "exists; --force overwrites it" in again.stderr


def test_a_plan_of_a_quantization(checkpoint: str, invoke: Invoke) -> None:
    assert invoke("convert", checkpoint, "-o", "m.gguf", "--type", "F16", "--jobs", "1").exit_code == 0
    plan = json.loads(invoke("quantize", "m.gguf", "small.gguf", "Q8_0", "--dry-run", "--json").stdout)
    assert not Path("small.gguf").exists()
    assert invoke("quantize", "m.gguf", "small.gguf", "Q8_0", "--jobs", "1").exit_code == 0
    assert plan["files"][0]["bytes"] == Path("small.gguf").stat().st_size


def test_parts_are_joined(checkpoint: str, invoke: Invoke) -> None:
    assert invoke("convert", checkpoint, "-o", "m.gguf", "--jobs", "1").exit_code == 0
    assert invoke("quantize", "m.gguf", "p.gguf", "COPY", "--split-max-size", "50K").exit_code == 0
    first = str(next(Path().glob("p-00001-of-*.gguf")))
    assert invoke("quantize", first, "joined.gguf", "copy").exit_code == 0
    assert Path("joined.gguf").read_bytes() == Path("m.gguf").read_bytes()


def test_a_longer_context(checkpoint: str, invoke: Invoke) -> None:
    result = invoke("convert", checkpoint, "-o", "m.gguf", "--context-length", str(4 * CONTEXT))
    assert result.exit_code == 0, result.output
    assert read_metadata("m.gguf").fields["internlm2.context_length"] == 4 * CONTEXT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split-max-size", "big"], "'big' is not a size"),
        (["--context-length", "1"], "no longer than that"),
        (["--context-length", "0"], ""),
    ],
)
def test_mistakes(arguments: list[str], message: str, checkpoint: str, invoke: Invoke) -> None:
    result = invoke("convert", checkpoint, "-o", "m.gguf", *arguments)
    assert result.exit_code != 0 and message in result.stderr
    assert not list(Path().glob("*.gguf"))
