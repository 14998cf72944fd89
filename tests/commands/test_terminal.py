"""What only a terminal sees: dim thoughts, Markdown, drawings, completion; and that a pipe sees none of it."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.fake_server import FakeServer, chunks
from tests.commands.tmux import Tmux

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
PROMPT = "Send a message"

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


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


@needs_tmux
def test_a_conversation(fake: FakeServer, tmp_path: Path) -> None:
    markdown = "It is **four**:\n\n- `2 + 2`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    fake.answers = [
        chunks({"thinking": "Two and"}, {"thinking": " two."}, *({"content": letter} for letter in markdown)),
        chunks({"content": "Both lines."}),
        chunks({"content": "A new run."}),
    ]
    with Tmux(tmp_path, "run", "nano") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("What is 2 + 2?")
        terminal.keys("Enter")
        terminal.wait_for("1  2")
        styled = terminal.screen(styled=True)
        assert "\x1b[2mThinking..." in styled
        assert "\x1b[1mfour" in styled
        assert "\x1b[1m\x1b[36m2 + 2" in styled
        assert "**" not in styled
        terminal.wait_for(PROMPT)
        terminal.type('"""first')
        terminal.keys("Enter")
        terminal.wait_for("first\n...")
        terminal.type('second"""')
        terminal.keys("Enter")
        terminal.wait_for("Both lines.")
        terminal.wait_for(PROMPT)
        terminal.keys("C-d")
        terminal.wait_for("status 0")
    assert fake.asked("/api/chat")[-1]["messages"][-1]["content"] == "first\nsecond"
    with Tmux(tmp_path, "run", "nano") as terminal:
        terminal.wait_for(PROMPT)
        terminal.keys("Up", "Up", "Up")
        terminal.wait_for(">>> What is 2 + 2?")
        terminal.keys("Enter")
        terminal.wait_for("A new run.")
        terminal.type("/bye")
        terminal.keys("Enter")
        terminal.wait_for("status 0")


@needs_tmux
def test_tab_completes_commands_models_and_pictures(fake: FakeServer, tmp_path: Path, isolated_home: Path) -> None:
    (isolated_home / "my pictures").mkdir()
    (isolated_home / "my pictures" / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    fake.add_model("mine")
    fake.answers = [chunks({"content": "A cat."}), chunks({"content": "Another."})]
    with Tmux(tmp_path, "run", "nano") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("/cl")
        terminal.keys("Tab")
        terminal.wait_for(">>> /clear")
        terminal.keys("Enter")
        terminal.wait_for("Cleared session context")
        terminal.type("/load mi")
        terminal.keys("Tab")
        terminal.wait_for(">>> /load mine")
        terminal.keys("Enter")
        terminal.wait_for("Loaded 'mine:latest'")
        terminal.type("What is ~/my")
        terminal.keys("Tab")
        terminal.wait_for("my\\ pictures/")
        terminal.keys("Tab")
        terminal.wait_for("my\\ pictures/cat.png")
        terminal.keys("Enter")
        terminal.wait_for("A cat.")
        terminal.type("/retry")
        terminal.keys("Enter")
        terminal.wait_for("Another.")
    first, again = fake.asked("/api/chat")[-2:]
    assert first["messages"] == again["messages"]
    assert (first["messages"][0]["content"], len(first["messages"][0]["images"])) == ("What is", 1)


@needs_tmux
def test_ctrl_c_and_a_server_that_dies_leave_the_chat(fake: FakeServer, tmp_path: Path) -> None:
    fake.endless = True
    with Tmux(tmp_path, "run", "nano") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("go")
        terminal.keys("Enter")
        terminal.wait_for("on and on", times=4)
        terminal.resize(50)
        terminal.type("typed too early")
        # Lines that were written before the window was made narrower are still as long as they were.
        screen = terminal.wait_for("on and on", times=terminal.screen().count("on and on") + 40)
        assert "early" not in screen
        assert 30 < len([line for line in screen.splitlines() if line][-2]) <= 50
        terminal.keys("C-c")
        assert fake.left.wait(10)
        fake.endless = False
        fake.answers = [
            [*chunks({"content": "Half an"})[:1], {"cut": True}],
            chunks({"content": "Still here."}),
        ]
        terminal.wait_for(PROMPT)
        terminal.type("then")
        terminal.keys("Enter")
        terminal.wait_for("the server closed the connection before its answer was complete")
        terminal.wait_for(PROMPT)
        terminal.type("and now")
        terminal.keys("Enter")
        terminal.wait_for("Still here.")
        terminal.keys("C-c")
        terminal.wait_for("Use Ctrl + d or /bye to leave.")


@needs_tmux
def test_save_and_load(fake: FakeServer, tmp_path: Path) -> None:
    fake.answers = [chunks({"content": "Hello."})]
    with Tmux(tmp_path, "run", "nano") as terminal:
        for line, seen in (
            ("hi", "Hello."), ("/save kept", "Created new model 'kept'"), ("/load kept", "Loaded 'kept'"),
            ("?", "/tokens TEXT"), ("/set think 50", "Set 'think' mode, at most 50 tokens."),
        ):  # fmt: skip
            terminal.wait_for(PROMPT)
            terminal.type(line)
            terminal.keys("Enter")
            terminal.wait_for(seen)
    assert fake.asked("/api/create")[0]["messages"][-1] == {"role": "assistant", "content": "Hello."}


@needs_tmux
@pytest.mark.parametrize(
    ("graphics", "begins"),
    [("kitty", b"\x1b_Ga=T,f=100,q=2,m="), ("sixel", b'\x1bPq"1;1;'), ("blocks", b"\x1b[0;38;2;"), ("off", b"Aspirin")],
)
def test_molecules_are_drawn(
    graphics: str, begins: bytes, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNS1_GRAPHICS", graphics)
    fake.answers = [chunks({"content": f"Aspirin is <SMILES>{ASPIRIN}</SMILES>."})]
    with Tmux(tmp_path, "run", "nano", "aspirin?") as terminal:
        terminal.wait_for("status 0")
        assert f"Aspirin is <SMILES>{ASPIRIN}</SMILES>." in terminal.screen()
    raw = terminal.raw.read_bytes()
    assert begins in raw
    assert raw.count(ASPIRIN.encode()) == (1 if graphics == "off" else 2)


@pytest.mark.parametrize("graphics", ["auto", "sixel"])
def test_a_pipe_gets_no_codes(graphics: str, fake: FakeServer) -> None:
    markdown = f"**bold** `code`\n```python\nx = 1\n```\n<SMILES>{ASPIRIN}</SMILES>"
    fake.answers = [chunks({"thinking": "Hm."}, {"content": markdown})]
    done = subprocess.run(
        [sys.executable, "-m", "interns1_local.commands", "run", "nano", "x", "--verbose"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1", "INTERNS1_GRAPHICS": graphics},
    )
    assert done.stdout == f"Thinking...\nHm.\n...done thinking.\n\n{markdown}\n"
    assert "eval count" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
