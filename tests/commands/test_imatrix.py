"""`interns1 imatrix` on the nano: every kind of data, the quantizer with what it made, merging, stopping, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from interns1_local.commands.calibration_data import Picture, length, take_in_turn
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.nano import CHECKPOINT
from interns1_local.nano.pictures import Thing, draw_things, png
from quant.imatrix import read_statistics
from tests.commands.conftest import Invoke

FILES = ("notes.md", "drugs.smi", "proteins.fasta", "chats.jsonl", "plot.png")
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
CHAT = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.gguf, mmproj.gguf and a file of every kind."""
    folder = tmp_path_factory.mktemp("imatrix")
    convert(CHECKPOINT, folder / "model.gguf", type="F32", mmproj=folder / "mmproj.gguf", mmproj_type="F32", jobs=1)
    (folder / "notes.md").write_text("# Notes\n" + f"17 + 25 is 42. <SMILES>{ASPIRIN}</SMILES> is aspirin.\n" * 12)
    (folder / "drugs.smi").write_text(f"SMILES name\nCCO ethanol\n{ASPIRIN}\taspirin\n\nc1ccccc1\n")
    (folder / "proteins.fasta").write_text(">a\nMKTAYIAKQRQISFVKSHF\nSRQLEERLGLIEVQ\n>b\nGIVEQCCTSICSLYQLENYCN\n")
    (folder / "chats.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n\n" + json.dumps({"messages": CHAT[:1]}))
    picture = draw_things([Thing("red", "circle", "top"), Thing("blue", "cross", "left")])
    (folder / "plot.png").write_bytes(png(picture))
    return folder


@pytest.fixture
def here(nano: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(nano)
    monkeypatch.setenv("INTERNS1_THREADS", "1")
    for path in (*nano.glob("out*"), *nano.glob(".out*")):
        path.unlink()
    return nano


def data(*names: str) -> list[str]:
    return [word for name in names for word in ("--data", name)]


def test_all_kinds_of_data_then_quantize(here: Path, invoke: Invoke) -> None:
    result = invoke(
        "imatrix", "model.gguf", "--mmproj", "mmproj.gguf", *data(*FILES), "-o", "out.gguf", "--chunk", "64"
    )
    assert result.exit_code == 0, result.output
    found = read_statistics(Path("out.gguf"))
    assert found.datasets == list(FILES)
    summary = result.stdout.splitlines()[0].split()
    assert summary[:3] == ["out.gguf:", str(len(found.entries)), "tensors,"]
    tokens = int(summary[4])
    assert all(counts.sum() == tokens for name, (_, counts) in found.entries.items() if "exps" not in name)
    assert all(counts.sum() == 2 * tokens for name, (_, counts) in found.entries.items() if "exps" in name)
    result = invoke("quantize", "model.gguf", "out-small.gguf", "IQ2_XS", "--imatrix", "out.gguf", "--jobs", "1")
    assert result.exit_code == 0, result.output
    model = Model(Path("out-small.gguf"), ON_CPU)
    assert model.vocab.n_tokens > 0
    model.close()


def test_a_stored_name_and_blind_experts(here: Path, invoke: Invoke) -> None:
    Path("out.txt").write_text("A")
    result = invoke("imatrix", "nano", *data("out.txt"), "-o", "out.gguf")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("from 1 tokens in 1 chunks")
    # One token reaches two of eight experts, in three matrices of three layers.
    assert lines[1].startswith("54 matrices of experts saw no tokens. All their columns get the weight 1")
    assert len(lines) == 2 + 9 and lines[2].startswith("  blk.0.ffn_down_exps.weight: ")


def test_merging_equals_measuring_all(here: Path, invoke: Invoke) -> None:
    assert invoke("imatrix", "model.gguf", *data("drugs.smi"), "-o", "out-a.gguf").exit_code == 0
    merged = invoke("imatrix", "model.gguf", *data("proteins.fasta"), "--merge", "out-a.gguf", "-o", "out-b.gguf")
    assert merged.exit_code == 0, merged.output
    assert invoke("imatrix", "model.gguf", *data("drugs.smi", "proteins.fasta"), "-o", "out-c.gguf").exit_code == 0
    b, c = read_statistics(Path("out-b.gguf")), read_statistics(Path("out-c.gguf"))
    assert b.datasets == c.datasets == ["drugs.smi", "proteins.fasta"]
    for name, (sums, counts) in b.entries.items():
        assert np.array_equal(counts, c.entries[name][1])
        np.testing.assert_allclose(sums, c.entries[name][0], rtol=1e-5)


def test_chunks_are_taken_of_each_file_in_turn(here: Path, invoke: Invoke) -> None:
    arguments = ("--chunk", "16", "--chunks", "2", "-o", "out.gguf")
    result = invoke("imatrix", "model.gguf", *data("notes.md", "drugs.smi"), *arguments)
    assert result.exit_code == 0, result.output
    assert "in 2 chunks" in result.stdout
    picture = Picture(Path("p.png"), 16)
    assert list(take_in_turn([iter([[1], [2], [3]]), iter([[4, picture]])], 3)) == [[1], [4, picture], [2]]
    assert length([4, picture]) == 17


def test_files_are_overwritten_only_by_force(here: Path, invoke: Invoke) -> None:
    Path("out.gguf").write_text("precious")
    arguments = ("imatrix", "model.gguf", *data("drugs.smi"), "-o", "out.gguf")
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (1, "Error: out.gguf exists; --force overwrites it\n")
    assert Path("out.gguf").read_text() == "precious"
    assert invoke(*arguments, "--force").exit_code == 0
    assert read_statistics(Path("out.gguf")).datasets == ["drugs.smi"]


def test_ctrl_c_leaves_nothing(here: Path) -> None:
    Path("out.txt").write_text("17 + 25 is 42. " * 20_000)
    command = [sys.executable, "-m", "interns1_local.commands", "imatrix", "model.gguf", *data("out.txt")]
    run = subprocess.Popen([*command, "-o", "out.gguf"], stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert run.stderr.readline().startswith("measuring ")
    os.kill(run.pid, signal.SIGINT)
    rest = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "Traceback" not in rest and "ignored" not in rest
    assert [path.name for path in here.iterdir() if "out" in path.name] == ["out.txt"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "out.txt", "out.txt is empty"),
        (
            b"\xff\xfe\x00",
            "out.txt",
            "out.txt is not UTF-8 text: byte 0 cannot be read; pictures are known by their names (.bmp",
        ),
        (b"GIF", "out.png", "out.png is a picture, and the model has no vision file; name one with --mmproj"),
        (b"{", "out.jsonl", "out.jsonl, line 1 is not JSON"),
        (b'{"text": "a"}', "out.jsonl", "out.jsonl, line 1 has no conversation"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "out.jsonl", "pictures are given as"),
        (b'{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "out.jsonl", "a tool call needs a function"),
        (None, "out.txt", "there is no file out.txt"),
    ],
)
def test_data_that_cannot_be_used(content: bytes | None, name: str, message: str, here: Path, invoke: Invoke) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    result = invoke("imatrix", "model.gguf", *data(name), "-o", "out.gguf")
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert "unexpected" not in result.stderr
    assert not Path("out.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.gguf"], "there is no file nowhere.gguf"),
        (["nothing"], "there is no file and no model 'nothing'"),
        (["notes.md"], "cannot read notes.md"),
        (["model.gguf", "--merge", "mmproj.gguf"], "is not an importance matrix"),
        (["model.gguf", "--mmproj", "none.gguf"], "there is no file none.gguf"),
    ],
)
def test_mistakes(arguments: list[str], message: str, here: Path, invoke: Invoke) -> None:
    result = invoke("imatrix", *arguments, *data("drugs.smi"), "-o", "out.gguf")
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert "unexpected" not in result.stderr
    assert not Path("out.gguf").exists()


def test_a_damaged_picture(here: Path, invoke: Invoke) -> None:
    Path("out.png").write_bytes(Path("plot.png").read_bytes()[:60])
    result = invoke("imatrix", "model.gguf", "--mmproj", "mmproj.gguf", *data("out.png"), "-o", "out.gguf")
    assert result.exit_code == 1 and "out.png: the image is damaged" in result.stderr
