"""Modules of this package as processes of their own: how they are called, and what environment they get."""

from __future__ import annotations

import os
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
