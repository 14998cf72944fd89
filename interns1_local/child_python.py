"""Modules of this package as processes of their own: how they are called, what environment they get, how they end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import interns1_local


def command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS`. What lies in the current folder is not imported."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment and `more`, by which the child imports the same package from wherever it starts."""
    root = str(Path(interns1_local.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def ending(code: int | None) -> str:
    """`exit code 1` or `signal SIGSEGV`, from the code that a process left; None where it has left none yet."""
    if code is None:
        return "no exit code yet"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
