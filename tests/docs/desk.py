"""Runs the blocks of a page as a reader would: in a folder and a home of its own, against one real server.

What a reader has and a test has not stands on the desk: the nano as a big model, a picture, a film, texts.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from interns1_local.nano import CHECKPOINT
from interns1_local.nano.pictures import Thing, draw_things, png
from tests.docs.pages import ROOT, Block, shown_commands
from tests.media.films import write_film

ADDRESS = "127.0.0.1:11434"
# A command that builds or installs, and what stands for it where everything is built.
STAND_INS = {"make demo": "interns1 demo", ". .venv/bin/activate": "true"}
_SECONDS = 120
_TIMES = re.compile(r"[\d.]+(?= (?:s|ms|tokens/s)\b)|(?<=127\.0\.0\.1:)\d+")
_TEXT = "Aspirin is CC(=O)OC1=CC=CC=C1C(=O)O, and 20 + 22 = 42. "


@dataclass(frozen=True, slots=True)
class Desk:
    """The folder that commands run in, the address of the server and what is in their environment."""

    folder: Path
    address: str
    environ: Mapping[str, str]

    def run(self, block: Block) -> None:
        """Run a block; an AssertionError says what went wrong."""
        if block.language == "console":
            for shown in shown_commands(block.text):
                printed = self._shell(shown.command, block.line)
                assert matches(printed, shown.output), (
                    f"line {block.line}: {shown.command}\nprints\n{printed}\nand the page says\n{shown.output}"
                )
        elif "serves" in block.words:
            self._serve(block)
        elif block.language == "python":
            self._run([sys.executable, "-c", self._local(block.text)], block.text, block.line)
        else:
            self._shell(block.text, block.line)

    def _shell(self, text: str, line: int) -> str:
        for command, stand_in in STAND_INS.items():
            text = re.sub(rf"^{re.escape(command)}(?=\s|$)", stand_in, text, flags=re.MULTILINE)
        return self._run(["bash", "-e", "-o", "pipefail", "-c", self._local(text)], text, line)

    def _run(self, command: list[str], text: str, line: int) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=dict(self.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_SECONDS,
        )  # fmt: skip
        # What curl gets with an error of the server is no failure to curl.
        failed = done.returncode != 0 or done.stdout.startswith('{"error"')
        assert not failed, f"line {line}: {text}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, block: Block) -> None:
        """Start the server that the block starts, wait until it answers, and end it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        script = f"{block.text.rstrip()} --until-stdin-closes"
        process = subprocess.Popen(
            ["bash", "-c", script.replace(ADDRESS, address)], cwd=self.folder, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**self.environ, "INTERNS1_HOST": address},
        )  # fmt: skip
        assert process.stdout
        said = process.stdout.readline()
        rest, _ = process.communicate(timeout=_SECONDS)
        assert address in said, f"line {block.line}: {block.text}\n{said}{rest}"

    def _local(self, text: str) -> str:
        return text.replace(ADDRESS, self.address)


def set_desk(folder: Path, address: str, environ: Mapping[str, str], models: Mapping[str, Path]) -> Desk:
    """A desk in `folder`; `models` are files that lie on it, by name."""
    home, programs = folder / "home", folder / "programs"
    work = folder / "work"
    for each in (home, programs, work):
        each.mkdir(parents=True)
    for name, arguments in (("interns1", " -m interns1_local.commands"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        (programs / name).chmod(0o755)
    shutil.copy(ROOT / "Modelfile", work)
    (work / "Intern-S1-mini").symlink_to(CHECKPOINT)
    for name, path in models.items():
        (work / name).symlink_to(path)
    picture = draw_things([Thing("red", "circle", "top")])
    (work / "picture.png").write_bytes(png(picture))
    write_film(work / "film.mp4", [np.asarray(picture)] * 8, rate=8)
    (work / "papers.txt").write_text(_TEXT * 60)
    (work / "molecules.smi").write_text("CC(=O)OC1=CC=CC=C1C(=O)O\nCN1C=NC2=C1C(=O)N(C(=O)N2C)C\n" * 60)
    (work / "proteins.fasta").write_text(">oxytocin\nCYIQNCPLG\n" * 60)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    return Desk(work, address, {**environ, "HOME": str(home), "PATH": path, "INTERNS1_HOST": address})


def matches(printed: str, shown: str) -> bool:
    """Whether a page shows what was printed, but for blank lines, times, ports and our folder; `...` is any lines."""
    printed, shown = _timeless(printed), _timeless(shown)
    wanted = [line.rstrip() for line in shown.splitlines() if line.strip()]
    if not wanted:
        return True
    parts = [r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line) + "\n" for line in wanted]
    text = "".join(line.rstrip() + "\n" for line in printed.splitlines() if line.strip())
    return re.fullmatch("".join(parts), text) is not None


def _timeless(text: str) -> str:
    return _TIMES.sub("N", text.replace(f"{ROOT}/", ""))
