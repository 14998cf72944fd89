"""The fake server, the command line against it, and a terminal for the chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click.testing
import pytest

from interns1_local.commands import interns1
from tests.commands.fake_server import FakeServer, running

Invoke = Callable[..., click.testing.Result]


@pytest.fixture(scope="session")
def one_fake_server() -> Iterator[FakeServer]:
    with running(FakeServer()) as server:
        yield server


@pytest.fixture
def fake(one_fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server with the model `nano`; the settings name it."""
    one_fake_server.reset()
    one_fake_server.add_model("nano")
    monkeypatch.setenv("INTERNS1_HOST", one_fake_server.base_url)
    return one_fake_server


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name a port where nothing listens."""
    monkeypatch.setenv("INTERNS1_HOST", "127.0.0.1:9")


@pytest.fixture
def invoke() -> Invoke:
    """`invoke("list", "--json")` runs the command line; `stdin=` is what is piped in."""

    def run(*args: str, stdin: str = "") -> click.testing.Result:
        return click.testing.CliRunner().invoke(interns1, list(args), input=stdin, prog_name="interns1")

    return run
