"""`interns1 bench` on the shipped model: both sides have figures, and what it says to mistakes. No speed is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interns1_local.commands.bench_run import Speed
from tests.commands.conftest import Invoke

QUICK = ("--prompt", "16", "--tokens", "8", "--repeats", "2", "--threads", "1")


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("INTERNS1_MODELS", str(folder))
    return folder


def test_both_sides_have_figures(store: Path, invoke: Invoke) -> None:
    result = invoke("bench", "nano", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"] == "nano" and found["threads"] == 1 and Path(found["file"]).is_file()
    assert [(each["measure"], each["tokens"]) for each in found["measures"]] == [("prefill", 16), ("decode", 8)]
    for each in found["measures"]:
        assert all(len(each[side]["values"]) == 2 and min(each[side]["values"]) > 0 for side in ("ours", "llama_cpp"))
        assert each["ratio"] > 0
    lines = invoke("bench", "nano", *QUICK).stdout.splitlines()
    assert lines[0] == "nano: Q8_0, 1 threads, 2 repeats; tokens a second"
    assert lines[1].split() == ["ours", "llama.cpp", "ratio"]
    assert [line.split()[:2] for line in lines[2:]] == [["prefill", "16"], ["decode", "8"]]


def test_the_ratio_is_that_of_neighbours() -> None:
    speed = Speed("decode", 8, [10.0, 100.0, 30.0], [10.0, 200.0, 20.0])
    assert speed.ratio == 1.0
    assert speed.to_json()["ours"]["mean"] == pytest.approx(140 / 3)
    assert Speed("decode", 8, [10.0], [20.0]).to_json()["ours"]["deviation"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody",), "there is no file and no model 'nobody'"),
        (("nano", "--prompt", "0"), "0 is not in the range"),
        (("nano", "--prompt", "99999999"), "do not fit: ask for fewer"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str, store: Path, invoke: Invoke) -> None:
    result = invoke("bench", *arguments)
    assert result.exit_code in (1, 2)
    assert words in result.stderr


def test_a_file_is_no_model(store: Path, tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    result = invoke("bench", str(path))
    assert result.exit_code == 1
    assert "is a file; a model's name is expected" in result.stderr
