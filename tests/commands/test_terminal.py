"""What only a terminal sees: dim thoughts and wrapped lines."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.fake_server import FakeServer, chunks


def run_in_terminal(*arguments: str, typed: tuple[tuple[str, str], ...] = ()) -> str:
    """Everything that `interns1 ARGUMENTS` writes to a terminal of 40 columns.

    Each pair of `typed` is what to wait for on the screen, and what is typed then.
    """
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "interns1_local.commands", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "40", "LINES": "20"},
    )
    os.close(theirs)
    written, seen, waiting = b"", 0, list(typed)
    # Linux ends a terminal whose other side is closed with an error.
    with contextlib.suppress(OSError):
        while part := os.read(mine, 4096):
            written += part
            if waiting and (found := written.find(waiting[0][0].encode(), seen)) >= 0:
                seen = found + 1
                os.write(mine, waiting.pop(0)[1].encode())
    os.close(mine)
    assert process.wait(20) == 0
    return written.decode().replace("\r\n", "\n")


def test_thoughts_are_dim_and_lines_are_wrapped(fake: FakeServer) -> None:
    answer = chunks(
        {"thinking": "Think."}, {"content": "The answer is that words move "}, {"content": "to a new line."}
    )
    fake.answers = [answer, answer]
    assert run_in_terminal("run", "nano", "x") == (
        "\x1b[2mThinking...\x1b[0m\n\x1b[2mThink.\x1b[0m\n\x1b[2m...done thinking.\x1b[0m\n\n"
        "The answer is that words move to a new\nline.\n"
    )
    assert "words move to a new line." in run_in_terminal("run", "nano", "x", "--nowordwrap")


def test_ctrl_g_opens_the_editor(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "From the editor" > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("INTERNS1_EDITOR", str(editor))
    fake.answers = [chunks({"content": "I see."})]
    run_in_terminal("run", "nano", typed=(("Send a message", "\x07"), ("I see.", "/bye\r")))
    [_, request] = fake.asked("/api/chat")
    assert request["messages"] == [{"role": "user", "content": "From the editor"}]
