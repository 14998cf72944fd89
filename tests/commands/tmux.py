"""A real terminal for tests: tmux, which a test types into and whose screen it reads."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

COLUMNS, ROWS = 80, 30
SECONDS = 30.0


class Tmux:
    """`interns1 ARGUMENTS` in a terminal; everything that the program writes is also in the file `raw`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.raw = folder / "raw"
        # A socket's path is short, and a test's folder is not always.
        self._socket = f"interns1-test-{os.getpid()}-{time.monotonic_ns()}"
        command = shlex.join([sys.executable, "-m", "interns1_local.commands", *arguments])
        size = ("-x", str(COLUMNS), "-y", str(ROWS))
        # Waits for a key, so that the file is there before the first byte.
        self._tmux("-f", os.devnull, "new-session", "-d", *size, f"read -r go; {command}; echo status $?; read -r end")
        self._tmux("pipe-pane", f"cat > {shlex.quote(str(self.raw))}")
        self.keys("Enter")

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def keys(self, *names: str) -> None:
        """Keys by tmux's names: `Enter`, `Tab`, `C-c`, `Up`."""
        self._tmux("send-keys", *names)

    def resize(self, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns))

    def screen(self, *, styled: bool = False) -> str:
        """All lines, those that have scrolled away too; `styled` with the codes of their styles."""
        codes = ("-e",) if styled else ()
        return self._tmux("capture-pane", "-p", "-J", "-S", "-1000", *codes)

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """The screen, once `text` stands on it so often."""
        end = time.monotonic() + SECONDS
        while (screen := self.screen()).count(text) < times:
            assert time.monotonic() < end, f"{text!r} did not appear in:\n{screen}"
            time.sleep(0.05)
        return screen

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._socket, *arguments]
        # Given by name: pytest loads readline, which puts COLUMNS into what is handed down otherwise.
        return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True).stdout
