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
    assert "time: about" in table.stdout
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
    assert plan["memory_bytes"] > 10**6 and plan["seconds"] >= 0
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


def types_of(plan: str) -> dict[str, str]:
    return {tensor["name"]: tensor["type"] for file in json.loads(plan)["files"] for tensor in file["tensors"]}


@pytest.mark.parametrize(
    "command", [["convert", "checkpoint", "-o", "m.gguf", "--type"], ["quantize", "f.gguf", "m.gguf"]]
)
def test_types_of_single_tensors(command: list[str], checkpoint: str, invoke: Invoke) -> None:
    assert invoke("convert", checkpoint, "-o", "f.gguf", "--type", "F16", "--jobs", "1").exit_code == 0
    arguments = [*command, "Q8_0", "--jobs", "1", "--tensor-type", "BLK.0.attn_Q=f16", "--tensor-type", "attn_q=q4_0"]
    planned = types_of(invoke(*arguments, "--dry-run", "--json").stdout)
    assert (planned["blk.0.attn_q.weight"], planned["blk.1.attn_q.weight"]) == ("F16", "Q4_0")
    assert planned["blk.1.attn_k.weight"] == "Q8_0" and not Path("m.gguf").exists()
    assert invoke(*arguments).exit_code == 0
    assert {tensor.name: tensor.type for tensor in read_metadata("m.gguf").tensors} == planned


def test_a_model_is_fitted_to_a_size(checkpoint: str, invoke: Invoke) -> None:
    assert invoke("convert", checkpoint, "-o", "f.gguf", "--type", "F16", "--jobs", "1").exit_code == 0
    size = Path("f.gguf").stat().st_size * 2 // 3
    arguments = ("quantize", "f.gguf", "m.gguf", "--fit", str(size), "--jobs", "1")
    planned = invoke(*arguments, "--dry-run", "--json")
    assert planned.exit_code == 0 and "measuring" in planned.stderr
    assert "token_embd.weight" in invoke(*arguments, "--dry-run").stdout
    assert Path("f.gguf.sensitivity.json").is_file() and not Path("m.gguf").exists()
    Path("f.gguf.sensitivity.json").write_text("?")
    result = invoke(*arguments)
    assert result.exit_code == 0 and "warning: f.gguf.sensitivity.json cannot be used" in result.stderr
    assert size - 2000 < Path("m.gguf").stat().st_size <= size
    assert {tensor.name: tensor.type for tensor in read_metadata("m.gguf").tensors} == types_of(planned.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either a TYPE"),
        (["Q8_0", "--fit", "1G"], "name either a TYPE"),
        (["--fit", "huge"], "'huge' is not a size"),
        (["--fit", "10K"], "Choose a size from"),
        (["Q8_0", "--tensor-type", "attn_q"], "write REGEX=TYPE"),
        (["Q8_0", "--tensor-type", "nothing=q8_0"], "matches no tensor"),
    ],
)
def test_mistakes_of_quantize(arguments: list[str], message: str, checkpoint: str, invoke: Invoke) -> None:
    assert invoke("convert", checkpoint, "-o", "f.gguf", "--type", "F16", "--jobs", "1").exit_code == 0
    result = invoke("quantize", "f.gguf", "m.gguf", *arguments)
    assert result.exit_code == 1 and message in result.stderr and "unexpected" not in result.stderr
    assert not list(Path().glob("*m.gguf*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensor-type", "attn_q=q9"], "There is no tensor type 'q9'"),
        (["--split-max-size", "big"], "'big' is not a size"),
        (["--context-length", "1"], "no longer than that"),
        (["--context-length", "0"], ""),
    ],
)
def test_mistakes(arguments: list[str], message: str, checkpoint: str, invoke: Invoke) -> None:
    result = invoke("convert", checkpoint, "-o", "m.gguf", *arguments)
    assert result.exit_code != 0 and message in result.stderr
    assert not list(Path().glob("*.gguf"))
