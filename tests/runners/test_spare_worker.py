"""The worker that waits for a model: taken by a load, missed by none, and never staying behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from interns1_local import child_python
from interns1_local.config import Settings, load_settings
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import InternS1Error, ModelNotFound
from interns1_local.runners.model_spec import ModelSpec
from interns1_local.runners.protocol import GenerateRequest
from interns1_local.runners.runner import Runner
from interns1_local.runners.worker_process import SpareWorker, WorkerProcess

WORKER = b"interns1_local.runners.worker"
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux, which shows the processes")


@pytest.fixture
def spare() -> Iterator[SpareWorker]:
    with closing(SpareWorker()) as spare:
        yield spare


def until(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return done()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers_of(pid: int) -> list[int]:
    """The worker processes below `pid`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid and WORKER in path.with_name("cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def loaded_by(spare: SpareWorker, spec: ModelSpec, settings: Settings) -> int:
    """The process that answered."""

    async def main() -> int:
        runner = await Runner.start(spec, settings, take_worker=spare.take)
        try:
            request = GenerateRequest("hello", SamplingParams(temperature=0, ignore_eos=True), 3)
            found = [chunk async for chunks in runner.generate(request) for chunk in chunks]
            assert sum(len(chunk.ids) for chunk in found) == 3
            return runner.pid
        finally:
            await runner.close()

    return asyncio.run(main())


def test_the_next_load_takes_it_and_the_one_after_has_its_own(
    spare: SpareWorker, tiny_spec: ModelSpec, quick: Settings
) -> None:
    spare.prepare()
    spare.prepare()
    (waiting,) = workers_of(os.getpid())
    assert loaded_by(spare, tiny_spec, quick) == waiting
    assert loaded_by(spare, tiny_spec, quick) != waiting
    assert workers_of(os.getpid()) == []


@needs_proc
def test_one_that_was_killed_is_not_missed(spare: SpareWorker, tiny_spec: ModelSpec, quick: Settings) -> None:
    spare.prepare()
    (waiting,) = workers_of(os.getpid())
    os.kill(waiting, signal.SIGKILL)
    # Until this process has heard of it, which is when nothing is left of the other.
    assert until(lambda: not Path(f"/proc/{waiting}").exists())
    assert loaded_by(spare, tiny_spec, quick) != waiting


def test_what_it_says_last_is_known_when_it_has_ended() -> None:
    process = WorkerProcess()
    process.kill()
    code = process.exited.result(20)
    assert child_python.ending(code) == "signal SIGKILL" or os.name == "nt"
    assert not process.alive


@needs_proc
def test_a_load_that_fails_leaves_none(spare: SpareWorker, tiny_spec: ModelSpec, quick: Settings) -> None:
    absent = replace(tiny_spec, model_path=tiny_spec.model_path.with_name("absent.gguf"))
    damaged = replace(tiny_spec, mmproj_path=tiny_spec.model_path)
    for spec in (absent, damaged):
        spare.prepare()
        with pytest.raises(InternS1Error) as caught:
            loaded_by(spare, spec, quick)
        assert isinstance(caught.value, ModelNotFound) == (spec is absent)
        assert until(lambda: not workers_of(os.getpid()))


@needs_proc
@pytest.mark.parametrize(("last_word", "wanted"), [(signal.SIGTERM, "1"), (signal.SIGKILL, "1"), (signal.SIGINT, "0")])
def test_it_ends_with_its_server(tmp_path: Path, last_word: signal.Signals, wanted: str) -> None:
    environ = child_python.environment(
        HOME=str(tmp_path), INTERNS1_MODELS=str(tmp_path), INTERNS1_HOST="127.0.0.1:0", INTERNS1_SPARE_WORKER=wanted
    )
    command = [sys.executable, "-m", "interns1_local.commands", "serve"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        assert "listens on" in server.stdout.readline()
        workers = workers_of(server.pid)
        server.send_signal(last_word)
        server.wait(20)
    assert len(workers) == int(wanted)
    assert until(lambda: not any(map(is_running, workers)))


def test_the_setting() -> None:
    assert load_settings({}).spare_worker
    assert not load_settings({"INTERNS1_SPARE_WORKER": "0"}).spare_worker
