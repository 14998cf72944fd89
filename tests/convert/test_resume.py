"""A conversion that was stopped continues; one whose checkpoint changed does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convert.hf_to_gguf import Progress, convert
from tests.tiny_internlm import tiny_internlm2


def stop(progress: Progress) -> None:
    if progress.tensors_done >= 8:
        raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A checkpoint with an output that is half done beside it."""
    folder = tiny_internlm2(tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        convert(folder, folder / "m.gguf", type="Q8_0", jobs=1, progress=stop)
    assert not (folder / "m.gguf").exists() and (folder / ".m.gguf.journal").exists()
    return folder


def done_before(folder: Path, type: str = "Q8_0", restart: bool = False) -> int:
    """Convert to the end: how many tensors were there at the start. The result must be right."""
    seen: list[Progress] = []
    convert(folder, folder / "m.gguf", type=type, jobs=1, restart=restart, progress=seen.append)
    convert(folder, folder / "fresh.gguf", type=type, jobs=1)
    assert (folder / "m.gguf").read_bytes() == (folder / "fresh.gguf").read_bytes()
    assert not list(folder.glob(".*"))
    return seen[0].tensors_done


def test_the_same_call_continues(stopped: Path) -> None:
    assert done_before(stopped) >= 8


def test_restart_begins_anew(stopped: Path) -> None:
    assert done_before(stopped, restart=True) == 0


def test_another_type_begins_anew(stopped: Path) -> None:
    assert done_before(stopped, "F16") == 0


def test_a_changed_checkpoint_begins_anew(stopped: Path) -> None:
    path = next(stopped.glob("*.safetensors"))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert done_before(stopped) == 0


def test_parts_continue_too(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "m.gguf", type="Q8_0", jobs=1, split_max_bytes=30_000, progress=stop)
    assert not list(tmp_path.glob("*.gguf"))
    seen: list[Progress] = []
    report = convert(folder, tmp_path / "m.gguf", type="Q8_0", jobs=1, split_max_bytes=30_000, progress=seen.append)
    assert seen[0].tensors_done >= 8 and report.model.n_parts == len(list(tmp_path.glob("m-*.gguf")))
    assert not list(tmp_path.glob(".*"))
