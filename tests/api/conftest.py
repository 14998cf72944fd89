"""A tiny dense model with random weights, and the processes that a test started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.hf_to_gguf import convert
from tests.tiny import tiny_qwen3


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    checkpoint = tiny_qwen3(folder / "checkpoint", moe=False)
    (folder / "files").mkdir()
    convert(checkpoint, folder / "files" / "tiny.gguf", type="F32", jobs=1)
    return folder / "files" / "tiny.gguf"


@pytest.fixture
def new_workers() -> Callable[[], set[int]]:
    """The worker processes of this process that were not there when the test began."""
    before = _workers()
    return lambda: _workers() - before


def gone(pids: set[int], seconds: float = 10) -> bool:
    """Whether none of `pids` lives any more, after a while."""
    deadline = time.monotonic() + seconds
    while pids & _workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not pids & _workers()


def _workers() -> set[int]:
    # Whole lines, whatever the width of a terminal and the path of this project.
    command = ["ps", "-ww", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    rows = [line.split(None, 2) for line in lines]
    return {int(row[0]) for row in rows if "runners.worker" in row[2] and not row[1].startswith("Z")}
