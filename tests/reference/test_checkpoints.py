"""Tiny checkpoints of every family through `interns1 verify`: what our conversion computes is what they mean."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import click.testing
import pytest

from convert.hf_to_gguf import convert
from interns1_local.commands import interns1
from tests.convert.hub_server import hub
from tests.tiny import tiny_interns1, tiny_qwen3
from tests.tiny_internlm import CONTEXT, tiny_internlm2, tiny_internlm3

CHECKPOINTS = {
    "InternLM3": tiny_internlm3,
    "InternLM2": tiny_internlm2,
    "InternLM2, tied": lambda folder: tiny_internlm2(folder, tied=True),
    "InternLM2, base model": lambda folder: tiny_internlm2(folder, chat=False),
    "Qwen3": lambda folder: tiny_qwen3(folder, moe=False),
    "Qwen3-MoE": tiny_qwen3,
    "Intern-S1": lambda folder: tiny_interns1(folder, vision=False),
    "Intern-S1-mini, old names": lambda folder: tiny_interns1(folder, moe=False, old_names=True),
    "Intern-S1, packed experts, F16": lambda folder: tiny_interns1(folder, packed=True, dtype="F16", shards=1),
    "Intern-S1-FP8": lambda folder: tiny_interns1(folder, fp8=True),
    "Intern-S1-mini-FP8": lambda folder: tiny_interns1(folder, moe=False, fp8=True, vision=False),
}


def verify(model: Path, checkpoint: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON report."""
    arguments = ["verify", str(model), "--against", str(checkpoint), "--threads", "1", "--tokens", "24", "--json"]
    result = click.testing.CliRunner().invoke(interns1, [*arguments, *options], prog_name="interns1")
    assert result.stdout.startswith("{"), result.output
    return result.exit_code, json.loads(result.stdout)


def wrong(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c["kind"], c["subject"], c["reading"]) for c in report["checks"] if c["verdict"] == "DIFFERS"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_f32_holds(name: str, tmp_path: Path) -> None:
    folder = CHECKPOINTS[name](tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf", folder)
    assert (code, wrong(report)) == (0, [])
    assert {check["verdict"] for check in report["checks"]} == {"holds"}
    assert {check["kind"] for check in report["checks"]} == {"token ids", "logits"}


@pytest.mark.parametrize("where", ["hf:lab/tiny", "hf:lab/tiny@v1"])
def test_a_checkpoint_of_the_hub(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    with hub(folder) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        code, report = verify(tmp_path / "m.gguf", where)
    assert (code, wrong(report)) == (0, [])
    assert report["checkpoint"]["name"] == "tiny" and report["checks"]
    assert not list(kept.iterdir())


def test_a_checkpoint_that_the_hub_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    arguments = ["verify", str(tmp_path / "m.gguf"), "--threads", "1", "--against"]
    with hub(folder) as (endpoint, _):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        for where, message in (
            ("hf:lab/none", "There is no model lab/none on the hub"),
            ("hf:lab/tiny@v9", "lab/tiny has no revision 'v9'"),
            ("hf:tiny", "hf:tiny is not a repository"),
        ):
            result = click.testing.CliRunner().invoke(interns1, [*arguments, where], prog_name="interns1")
            assert result.exit_code == 1 and message in result.stderr
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
        result = click.testing.CliRunner().invoke(interns1, [*arguments, "hf:lab/tiny"], prog_name="interns1")
        assert result.exit_code == 1 and "has room for 1 KB" in result.stderr and "TMPDIR" in result.stderr


def test_reward_scores(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", reward=True)
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf", folder)
    assert (code, wrong(report)) == (0, [])
    scores = [check["figures"] for check in report["checks"] if check["kind"] == "score"]
    assert len(scores) > 10 and all(score["difference"] < 1e-3 and score["cosine"] > 0.9999 for score in scores)
    assert len({round(score["ours"], 3) for score in scores}) == len(scores)


def test_another_reward_head_is_found(tmp_path: Path) -> None:
    mine, other = (tiny_internlm2(tmp_path / name, reward=True, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    convert(other, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf", mine)
    assert code == 1 and {kind for kind, _, _ in wrong(report)} == {"score"}


def test_a_longer_context_has_the_base_of_that_length(tmp_path: Path) -> None:
    for tiny in (tiny_internlm2, tiny_internlm3):
        folder = tiny(tmp_path / tiny.__name__)
        path = tmp_path / f"{tiny.__name__}.gguf"
        convert(folder, path, type="F32", context_length=4 * CONTEXT, jobs=1)
        code, report = verify(path, folder)
        assert (code, wrong(report)) == (0, [])


def test_a_reference_that_is_rounded_itself_sets_no_bound(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")  # its weights are F32
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf", folder, "--dtype", "bfloat16")
    assert code == 0 and "more bits than bfloat16" in report["notes"][0]
    assert {check["verdict"] for check in report["checks"] if check["kind"] == "logits"} == {"reported"}


def test_a_template_that_is_missing_is_found(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", chat=True)
    base = tiny_internlm2(tmp_path / "base", chat=True)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    convert(base, tmp_path / "m.gguf", type="F32", jobs=1)
    code, report = verify(tmp_path / "m.gguf", folder)
    assert code == 1 and wrong(report) == [("token ids", "chat, by the template", "the GGUF has no chat template")]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (lambda folder: tiny_internlm2(folder, reward=True), "the GGUF is no reward model"),
        (lambda folder: tiny_qwen3(folder), "the checkpoint has 512 tokens and the GGUF 428"),
    ],
)
def test_the_wrong_checkpoint(checkpoint: Any, message: str, tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    arguments = ["verify", str(tmp_path / "m.gguf"), "--against", str(checkpoint(tmp_path / "other")), "--threads", "1"]
    result = click.testing.CliRunner().invoke(interns1, arguments, prog_name="interns1")
    assert result.exit_code == 1 and message in result.stderr
    assert "unexpected" not in result.stderr
