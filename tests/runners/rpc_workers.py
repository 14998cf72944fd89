"""Real RPC workers on loopback, started by the command as users do."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import pytest

from interns1_local.runners.devices import DeviceList


@cache
def has_rpc() -> bool:
    return "RPC" in DeviceList().machine().backends


NEEDS_RPC = pytest.mark.skipif(
    not has_rpc(),
    reason="NOT RUN: llama-cpp-python was built without RPC; `make test` builds it with CMAKE_ARGS=-DGGML_RPC=ON",
)


class Worker:
    """A running `interns1 rpc-worker`, its address and the lines that it has said."""

    def __init__(self, process: subprocess.Popen[str], endpoint: str, lines: list[str]) -> None:
        self.process = process
        self.endpoint = endpoint
        self.lines = lines

    def serving_pids(self) -> list[int]:
        """The processes that clients were led to."""
        return [int(pid) for line in self.lines for pid in re.findall(r"connected \(process (\d+)\)", line)]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(10)


@contextmanager
def rpc_worker(*options: str) -> Iterator[Worker]:
    command = [sys.executable, "-u", "-m", "interns1_local.commands", "rpc-worker", "--threads", "1", *options]
    if "--listen" not in options:
        command += ["--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    found = None
    while found is None:
        line = process.stdout.readline()
        assert line, f"the worker ended: {lines}"
        lines.append(line)
        found = re.search(r"listens on (\S+)", line)
    # Said as they come, and read so that the pipe never fills.
    reader = threading.Thread(target=_collect, args=(process.stdout, lines), daemon=True)
    reader.start()
    worker = Worker(process, found.group(1), lines)
    try:
        yield worker
    finally:
        worker.end()
        reader.join(5)
        process.stdout.close()


def _collect(stream: Iterator[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)


def endpoints(workers: Sequence[Worker]) -> tuple[str, ...]:
    return tuple(worker.endpoint for worker in workers)
