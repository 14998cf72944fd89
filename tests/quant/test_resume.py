"""A stopped run continues: killed, interrupted, out of space; and only when nothing has changed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from quant import gguf_output, journal
from quant.errors import BadTensor, OutputError
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.stream import Piece, Progress, TensorStream, stream_tensors

COLUMNS = 256
NAMES = tuple(f"t{n}.weight" for n in range(6))
SPECS = [TensorSpec(name, (32, COLUMNS), "Q8_0") for name in NAMES]
FIELDS = {"general.architecture": "llama"}

SLOW_RUN = """
import sys, time
from pathlib import Path
from quant import journal
from tests.quant.test_resume import run

journal.SYNC_BYTES = 1

def slow(progress):
    print(progress.tensors_done, flush=True)
    if progress.tensors_done == 3:
        time.sleep(600)

run(Path(sys.argv[1]), progress=slow)
"""


def run(path: Path, reads: list[str] | None = None, sources: str | None = "v1", **options: object) -> None:
    """Six tensors on one thread; `reads` says which were made."""

    def piece(index: int) -> Piece:
        def read(first: int, last: int) -> np.ndarray:
            if reads is not None:
                reads.append(NAMES[index])
            rows = np.random.default_rng(index).standard_normal((32, COLUMNS), np.float32)
            return rows[first:last]

        return Piece(32, read)

    progress = options.pop("progress", None)
    with create(path, FIELDS, SPECS, sources=sources, **options) as out:  # type: ignore[arg-type]
        streams = [TensorStream(out, name, "Q8_0", COLUMNS, [piece(i)]) for i, name in enumerate(NAMES)]
        stream_tensors(streams, jobs=1, progress=progress)  # type: ignore[arg-type]


def stop_after(n: int) -> object:
    def progress(state: Progress) -> None:
        if state.tensors_done >= n:
            raise KeyboardInterrupt

    return progress


def interrupted(path: Path, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(path, progress=stop_after(2), **options)  # type: ignore[arg-type]
    assert not path.exists()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    run(tmp_path / "whole.gguf")
    return (tmp_path / "whole.gguf").read_bytes()


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*") if path.is_file())


def test_killed(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    child = subprocess.Popen([sys.executable, "-c", SLOW_RUN, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    while child.stdout.readline().strip() != "3":
        assert child.poll() is None
    with pytest.raises(OutputError, match="another run"):
        run(path)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not path.exists() and left_over(tmp_path) == [".a.gguf.journal", ".a.gguf.partial"]
    reads: list[str] = []
    seen: list[Progress] = []
    run(path, reads, progress=seen.append)
    assert path.read_bytes() == whole
    assert 0 < len(reads) <= 3 and set(reads).isdisjoint(NAMES[:3])
    assert seen[0].tensors_done >= 3 and seen[0].bytes_done == seen[0].tensors_done * SPECS[0].n_bytes
    assert seen[-1].tensors_done == 6 and seen[-1].bytes_done == seen[-1].bytes_total
    assert not left_over(tmp_path)


def test_interrupted(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    interrupted(path)
    reads: list[str] = []
    run(path, reads)
    assert path.read_bytes() == whole and len(reads) < len(NAMES)
    assert not left_over(tmp_path)


@pytest.mark.parametrize("change", ["sources", "restart", "plan", "journal", "partial", "no sources"])
def test_what_has_changed_is_made_anew(change: str, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    interrupted(path)
    options: dict[str, object] = {"sources": "v2"} if change == "sources" else {}
    if change == "restart":
        options["restart"] = True
    if change == "no sources":
        options["sources"] = None
    if change == "journal":
        (tmp_path / ".a.gguf.journal").write_text("{")
    if change == "partial":
        (tmp_path / ".a.gguf.partial").write_bytes(b"")
    if change == "plan":
        (tmp_path / ".a.gguf.partial").write_bytes(b"GGUF" + whole[5:])
    reads: list[str] = []
    run(path, reads, **options)  # type: ignore[arg-type]
    assert reads == list(NAMES) and path.read_bytes() == whole
    assert not left_over(tmp_path)


def test_a_torn_last_line_counts_for_nothing(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    interrupted(path)
    record = tmp_path / ".a.gguf.journal"
    record.write_bytes(record.read_bytes() + b'"t5.weig')
    run(path)
    assert path.read_bytes() == whole


def test_full_disk(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write, left = tmp_path / "a.gguf", os.pwrite, [4]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(gguf_output.os, "pwrite", full)
        with pytest.raises(OutputError, match="No space left"):
            run(path)
    assert not path.exists() and left_over(tmp_path)
    reads: list[str] = []
    run(path, reads)
    assert reads == list(NAMES[3:]) and path.read_bytes() == whole


def test_wrong_weights_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadTensor), create(tmp_path / "a.gguf", FIELDS, SPECS[:1], sources="v1") as out:
        raise BadTensor("NaN")
    assert out.complete == set() and not list(tmp_path.glob("*.gguf")) and not left_over(tmp_path)


def test_it_notes_a_tensor_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SYNC_BYTES", 2 * SPECS[0].n_bytes)
    monkeypatch.setattr(journal, "SYNC_SECONDS", 3600.0)
    lines: list[int] = []

    def progress(state: Progress) -> None:
        lines.append((tmp_path / ".a.gguf.journal").read_bytes().count(b"\n"))
        time.sleep(0.01)

    run(tmp_path / "a.gguf", progress=progress)
    assert set(lines) <= {1, 3, 5, 7}  # two tensors at a time, after the plan's line
    assert len(read_metadata(tmp_path / "a.gguf").tensors) == 6
