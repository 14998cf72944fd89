"""A command's own server: it comes when none answers, and it goes with the command, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from interns1_local.commands.own_server import any_server, own_server
from interns1_local.errors import LoadError
from tests.commands.conftest import Invoke
from tests.commands.fake_server import FakeServer


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/version", trust_env=False).is_success
    except httpx.TransportError:
        return False


def test_it_lives_as_long_as_the_block() -> None:
    with own_server() as client:
        assert client.get("/api/tags") == {"models": []}
        assert client.base_url.startswith("http://127.0.0.1:")
    assert not answers(client.base_url)


def test_a_command_brings_its_own(no_server: None, invoke: Invoke) -> None:
    assert invoke("list").output == "NAME    ID    SIZE    MODIFIED\n"


def test_a_server_that_answers_is_used(fake: FakeServer) -> None:
    with any_server() as client:
        assert client.base_url == fake.base_url


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(LoadError, match=r"the server did not start: .*INTERNS1_MAX_QUEUE"),
        own_server({"INTERNS1_MAX_QUEUE": "many"}),
    ):
        pass


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_when_the_command_is_killed(ending: signal.Signals) -> None:
    script = (
        "import time\n"
        "from interns1_local.commands.own_server import own_server\n"
        "with own_server() as client:\n"
        "    print(client.base_url, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert command.stdout
    url = command.stdout.readline().strip()
    assert answers(url)
    command.send_signal(ending)
    command.wait(10)
    command.stdout.close()
    deadline = time.monotonic() + 10
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(url)
