"""`interns1 verify` on the shipped nano: what is right holds, and whatever is broken is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from interns1_local.nano import CHECKPOINT
from quant.gguf_file import read_metadata
from tests.commands.conftest import Invoke

Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nano's model.gguf and mmproj.gguf in F32."""
    folder = tmp_path_factory.mktemp("nano")
    convert(CHECKPOINT, folder / "model.gguf", type="F32", mmproj=folder / "mmproj.gguf", mmproj_type="F32", jobs=1)
    return folder


@pytest.fixture
def verify(invoke: Invoke) -> Verify:
    """`verify(model, *options)` -> (exit code, the JSON report)."""

    def run(model: Path, *options: object, against: Path = CHECKPOINT) -> tuple[int, dict[str, Any]]:
        arguments = ("--against", str(against), "--threads", "1", "--tokens", "48", "--json", *map(str, options))
        result = invoke("verify", str(model), *arguments)
        assert result.stdout.startswith("{"), result.output
        report: dict[str, Any] = json.loads(result.stdout)
        assert (result.exit_code == 0) == report["ok"]
        return result.exit_code, report

    return run


def verdicts(report: dict[str, Any], kind: str) -> dict[str, str]:
    return {check["subject"]: check["verdict"] for check in report["checks"] if check["kind"] == kind}


def wrong(report: dict[str, Any]) -> set[str]:
    return {check["kind"] for check in report["checks"] if check["verdict"] == "DIFFERS"}


def patch(source: Path, target: Path, tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of a GGUF in which an F32 tensor has other values."""
    shutil.copyfile(source, target)
    found = next(entry for entry in read_metadata(source).tensors if entry.name == tensor)
    assert found.type == "F32"
    data = np.memmap(target, np.float32, "r+", found.offset, found.shape)
    data[:] = change(np.array(data))
    data.flush()
    return target


def test_everything_holds_for_f32(nano: Path, invoke: Invoke, tmp_path: Path) -> None:
    text, picture, page = tmp_path / "own words.txt", tmp_path / "own.png", tmp_path / "report.md"
    text.write_text("Was ist <SMILES>CCO</SMILES>? | 酒精 " * 40, encoding="utf-8")
    from interns1_local.commands.verify_texts import draw

    draw(130, 90).save(picture)
    files = ("--mmproj", nano / "mmproj.gguf", "--data", text, "--picture", picture, "-o", page)
    options = [*map(str, files), "--against", str(CHECKPOINT), "--tokens", "48", "--threads", "1", "--json"]
    result = invoke("verify", str(nano / "model.gguf"), *options)
    report = json.loads(result.stdout)
    assert not wrong(report), [check for check in report["checks"] if check["verdict"] == "DIFFERS"]
    assert result.exit_code == 0
    assert {check["verdict"] for check in report["checks"]} == {"holds"}
    assert "own words.txt" in verdicts(report, "token ids") and "chat, by the template" in verdicts(report, "logits")
    assert set(verdicts(report, "tiles")) == {*(f"drawing, {x}" for x in ("one tile", "wide", "tall")), "own.png"}
    assert "prompt with own.png" in verdicts(report, "logits")
    assert report["all_texts"]["cosine_min"] > 0.9999 and report["all_texts"]["kl_max"] < 1e-4
    own = [check["figures"] for check in report["checks"] if check["subject"] == text.name]
    assert own[0]["tokens"] > own[1]["positions"] == 48
    model, mmproj = report["files"]
    assert (model["name"], mmproj["name"]) == ("model.gguf", "mmproj.gguf") and len(model["sha256"]) == 64
    assert report["checkpoint"]["architecture"] == "InternS1ForConditionalGeneration"
    assert {"torch", "transformers", "llama.cpp"} <= set(report["versions"]) and report["machine"]["cores"] >= 1
    check_markdown(page.read_text(encoding="utf-8"), model["sha256"])


def check_markdown(page: str, digest: str) -> None:
    """One page, whose tables all have as many cells in every row."""
    lines = page.splitlines()
    assert lines[0].startswith("# model.gguf against ") and digest in page and len(lines) < 90
    assert "**All " in page and "## Token ids and logits" in page and "## Pictures" in page and "DIFFERS" not in page
    widths = [line.replace("\\|", "").count("|") if line.startswith("|") else 0 for line in lines]
    tables = [set(block.split()) for block in " ".join(str(width or "\n") for width in widths).split("\n")]
    assert [len(block) for block in tables if block] == [1] * 3


def test_quantized_files_are_reported(nano: Path, invoke: Invoke, tmp_path: Path) -> None:
    convert(CHECKPOINT, tmp_path / "q4.gguf", type="Q4_K_M", jobs=1)
    options = ("--against", str(CHECKPOINT), "--tokens", "48", "--threads", "1", "--dtype", "bfloat16")
    result = invoke("verify", str(tmp_path / "q4.gguf"), *options)
    assert result.exit_code == 0, result.output
    assert "| reported |" in result.stdout and "Q4_K" in result.stdout and "more are reported" in result.stdout
    assert "loading the checkpoint" in result.stderr


def test_changed_weights_are_found(nano: Path, verify: Verify, tmp_path: Path) -> None:
    model = patch(nano / "model.gguf", tmp_path / "m.gguf", "blk.1.attn_output.weight", lambda w: w * 1.2)
    code, report = verify(model)
    assert (code, wrong(report)) == (1, {"logits"})


def test_numbers_that_are_none_are_found(nano: Path, verify: Verify, tmp_path: Path) -> None:
    model = patch(nano / "model.gguf", tmp_path / "m.gguf", "output_norm.weight", lambda w: w * np.nan)
    code, report = verify(model)
    assert (code, wrong(report)) == (1, {"logits"})
    assert report["all_texts"]["not_finite"] == report["all_texts"]["positions"]
    assert report["all_texts"]["cosine_min"] is None


def test_a_wrong_token_is_found(verify: Verify, tmp_path: Path) -> None:
    folder = tmp_path / "swapped"
    shutil.copytree(CHECKPOINT, folder)
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocab["W"], vocab["Q"] = vocab["Q"], vocab["W"]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf")
    assert (code, wrong(report)) == (1, {"token ids"})
    found = next(check for check in report["checks"] if check["subject"] == "English prose")
    assert found["verdict"] == "DIFFERS"
    figures = found["figures"]
    assert figures["first_difference"] == 0 and figures["id"] != figures["reference_id"]
    assert figures["reference_text"].startswith("W") and figures["text"].startswith("Q")
    assert "token 0" in found["reading"]


def test_positions_that_were_not_rolled_are_found(nano: Path, verify: Verify, tmp_path: Path) -> None:
    mmproj = patch(
        nano / "mmproj.gguf", tmp_path / "mm.gguf", "v.position_embd.weight", lambda rows: np.roll(rows, 1, axis=0)
    )
    code, report = verify(nano / "model.gguf", "--mmproj", mmproj)
    assert code == 1 and "image embeddings" in wrong(report) and "tiles" not in wrong(report)
    assert set(verdicts(report, "image embeddings").values()) == {"DIFFERS"}
    assert {verdict for subject, verdict in verdicts(report, "logits").items() if "drawing" not in subject} == {"holds"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.gguf", "--against", "checkpoint"], "there is no file no.gguf"),
        (["model.gguf", "--against", "nowhere"], "there is no folder nowhere"),
        (["model.gguf", "--against", "empty"], "empty has no config.json"),
        (["model.gguf", "--against", "other"], "GPT2LMHeadModel has no reference here; known are InternS1"),
        (["model.gguf", "--against", "checkpoint", "--picture", "x.png"], "--picture needs --mmproj"),
        (["model.gguf", "--against", "checkpoint", "--mmproj", "mm.gguf", "--picture", "x.png"], "there is no picture"),
        (
            ["model.gguf", "--against", "checkpoint", "--mmproj", "mm.gguf", "--picture", "latin1.txt"],
            "the image is not a PNG",
        ),
        (["model.gguf", "--against", "checkpoint", "-o", "no/report.md"], "there is no folder"),
        (["model.gguf", "--against", "checkpoint", "--data", "latin1.txt"], "latin1.txt is not UTF-8 text"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, nano: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.gguf").symlink_to(nano / "model.gguf")
    (tmp_path / "mm.gguf").symlink_to(nano / "mmproj.gguf")
    (tmp_path / "checkpoint").symlink_to(CHECKPOINT)
    for name, config in (("empty", None), ("other", {"architectures": ["GPT2LMHeadModel"]})):
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(json.dumps(config))
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    result = invoke("verify", *arguments, "--threads", "1")
    assert result.exit_code == 1
    assert message in result.stderr and "unexpected" not in result.stderr


def test_without_the_extra() -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from interns1_local.commands import main\n"
        "main(['verify', 'model.gguf', '--against', 'checkpoint'])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'needs torch, which is not installed: pip install "interns1-local[reference]"' in run.stderr
