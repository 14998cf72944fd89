"""What only a terminal sees: dim thoughts and wrapped lines."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

from tests.commands.fake_server import FakeServer, chunks


def run_in_terminal(*arguments: str) -> str:
    """Everything that `interns1 ARGUMENTS` writes to a terminal of 40 columns."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "interns1_local.commands", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "40", "LINES": "20"},
    )
    os.close(theirs)
    written = b""
    # Linux ends a terminal whose other side is closed with an error.
    with contextlib.suppress(OSError):
        while part := os.read(mine, 4096):
            written += part
    os.close(mine)
    assert process.wait(20) == 0
    return written.decode().replace("\r\n", "\n")


def test_thoughts_are_dim_and_lines_are_wrapped(fake: FakeServer) -> None:
    answer = chunks(
        {"thinking": "Think."}, {"content": "The answer is that words move "}, {"content": "to a new line."}
    )
    fake.answers = [answer, answer]
    assert run_in_terminal("run", "nano", "x") == (
        "\x1b[2mThinking...\n\x1b[0m\x1b[2mThink.\n...done thinking.\n\n\x1b[0m"
        "The answer is that words move to a new \nline.\n"
    )
    assert "words move to a new line." in run_in_terminal("run", "nano", "x", "--nowordwrap")
