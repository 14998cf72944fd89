"""The README's demo and the Modelfile of this repository, as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ollama

from interns1_local.commands.own_server import own_server
from interns1_local.nano.demo import questions
from tests.nano.conftest import Converted

ROOT = Path(__file__).parents[2]


def interns1(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interns1_local.commands", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environ or {})}, cwd=ROOT, timeout=300
    )


def test_demo(tmp_path: Path) -> None:
    done = interns1("demo", "--dir", str(tmp_path / "demo"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"All {len(questions())} answers are right" in done.stdout
    again = interns1("demo", "--dir", str(tmp_path / "demo"))
    assert again.returncode == 0 and "in an earlier run" in again.stdout


def test_run_makes_nano_by_itself(tmp_path: Path) -> None:
    done = interns1("run", "nano", "Who are you?", "--no-think", environ={"INTERNS1_MODELS": str(tmp_path / "models")})
    assert done.returncode == 0, done.stderr
    assert "Intern-S1" in done.stdout


def test_modelfile_of_this_repository(tmp_path: Path, nano_gguf: Callable[..., Converted]) -> None:
    model, mmproj = nano_gguf("Q8_0")
    text = (ROOT / "Modelfile").read_text()
    names = [line.split()[1] for line in text.splitlines() if line.startswith("FROM")]
    for name, path in zip(names, (model, mmproj), strict=True):
        text = text.replace(f"FROM {name}", f"FROM {path}")
    (tmp_path / "Modelfile").write_text(text)
    with own_server({"INTERNS1_MODELS": str(tmp_path / "models")}) as server:
        environ = {"INTERNS1_HOST": server.base_url.removeprefix("http://")}
        made = interns1("create", "mini", "-f", str(tmp_path / "Modelfile"), environ=environ)
        assert made.returncode == 0, made.stderr
        with ollama.Client(server.base_url) as client:
            shown = client.show("mini")
        assert {"completion", "vision", "tools", "thinking"} <= set(shown.capabilities or [])
        assert "num_ctx                        32768" in (shown.parameters or "")
        assert "<|im_start|>" in (shown.template or "")
