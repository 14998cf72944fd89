"""A server for the time of one command: found when one answers, started in a child process when none does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import IO

from interns1_local.commands.client import Client
from interns1_local.commands.errors import NoServer
from interns1_local.config import load_settings
from interns1_local.errors import LoadError

START_SECONDS = 60.0
STOP_SECONDS = 15.0


@contextmanager
def running_server() -> Iterator[Client]:
    """The server that the settings name; it must be there."""
    settings = load_settings()
    with Client(settings.base_url, settings.api_key) as client:
        if not client.answers():
            raise NoServer(client.base_url)
        yield client


@contextmanager
def any_server() -> Iterator[Client]:
    """The server that the settings name, or one of our own when none answers on this machine."""
    settings = load_settings()
    with Client(settings.base_url, settings.api_key) as client:
        if client.answers():
            yield client
            return
    if not _is_this_machine(settings.host):
        raise NoServer(settings.base_url)
    with own_server() as client:
        yield client


@contextmanager
def own_server(environ: Mapping[str, str] | None = None) -> Iterator[Client]:
    """A new server on a free loopback port; it ends with the block, however the block ends."""
    address = f"127.0.0.1:{_free_port()}"
    with tempfile.TemporaryFile() as log:
        process = _start(address, environ or {}, log)
        try:
            with Client(f"http://{address}", load_settings().api_key) as client:
                _wait_until_ready(client, process, log)
                yield client
        finally:
            _stop(process)


def _start(address: str, environ: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    variables = {**os.environ, **environ, "INTERNS1_HOST": address}
    output = None if variables.get("INTERNS1_DEBUG", "0") != "0" else log
    return subprocess.Popen(
        [sys.executable, "-m", "interns1_local.commands", "serve", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=variables,
        # Ctrl-C in the terminal is for the command, which stops an answer and keeps its server.
        start_new_session=os.name == "posix",
    )


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not client.answers():
        if process.poll() is not None:
            raise LoadError(f"the server did not start: {last_line(log) or f'exit code {process.returncode}'}")
        if time.monotonic() > deadline:
            raise LoadError(f"the server did not answer within {START_SECONDS:.0f} seconds; {last_line(log)}")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Closing its input asks the server to end; the rest is for a server that does not listen any more."""
    if process.stdin:
        process.stdin.close()
    for last_word in (process.terminate, process.kill):
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            last_word()
    process.wait()


def last_line(log: IO[bytes]) -> str:
    """What a process said last; nothing if it said nothing."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_this_machine(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
