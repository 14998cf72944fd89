"""The keyboard while an answer is written: what is typed then waits for the prompt, and is not shown in the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def unseen_typing() -> Iterator[None]:
    """Keys are not echoed in this block, so that they cannot move what is drawn; Ctrl-C still interrupts."""
    try:
        import termios
    except ImportError:
        yield
        return
    before = None
    with suppress(termios.error, OSError, ValueError):
        if sys.stdin.isatty():
            before = termios.tcgetattr(sys.stdin.fileno())
            quiet = list(before)
            quiet[3] = before[3] & ~termios.ECHO
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, quiet)
    try:
        yield
    finally:
        if before is not None:
            with suppress(termios.error, OSError, ValueError):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, before)
