"""What the terminal answers when it is asked: whether it shows pictures, and the colour of its ground.

It is asked once, with a short limit of time, and only when both sides are a terminal. Codes: xterm's control sequences
(primary device attributes, OSC 11) and kitty's graphics protocol.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

SECONDS = 0.5

_KITTY = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
_GROUND = "\x1b]11;?\x1b\\"
# Every terminal answers this one; asked last, its answer says that no other will come.
_ATTRIBUTES = "\x1b[c"

_ATTRIBUTES_ANSWER = re.compile(rb"\x1b\[\?([\d;]*)c")
_GROUND_ANSWER = re.compile(rb"\x1b\]11;rgba?:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})")
_COLOURFUL_GROUNDS = {"0": (0, 0, 0), "7": (229, 229, 229), "8": (0, 0, 0), "15": (255, 255, 255)}


@dataclass(frozen=True, slots=True)
class TerminalAnswer:
    """`ground` is red, green, blue, 0 to 255; None if nobody says."""

    kitty: bool = False
    sixel: bool = False
    ground: tuple[int, int, int] | None = None


def ask_terminal(environ: Mapping[str, str] = os.environ) -> TerminalAnswer:
    """Ask it; an empty answer where there is no terminal, or none that answers in time."""
    answer = b""
    if sys.stdin.isatty() and sys.stdout.isatty():
        # tmux and screen swallow the answers of what is outside; Apple's terminal prints kitty's question.
        inside = environ.get("TMUX") or environ.get("STY") or environ.get("TERM_PROGRAM") == "Apple_Terminal"
        answer = _exchange(_GROUND + ("" if inside else _KITTY) + _ATTRIBUTES)
    return read_answer(answer, environ)


def read_answer(answer: bytes, environ: Mapping[str, str]) -> TerminalAnswer:
    """What the bytes of an answer say, and the environment where they say nothing."""
    attributes = _ATTRIBUTES_ANSWER.search(answer)
    found = _GROUND_ANSWER.search(answer)
    ground = None
    if found:
        red, green, blue = (round(int(part, 16) * 255 / (16 ** len(part) - 1)) for part in found.groups())
        ground = (red, green, blue)
    else:
        ground = _COLOURFUL_GROUNDS.get(environ.get("COLORFGBG", "").rpartition(";")[2])
    sixel = attributes is not None and b"4" in attributes.group(1).split(b";")
    return TerminalAnswer(b"\x1b_Gi=31;OK" in answer, sixel, ground)


def _exchange(question: str) -> bytes:
    try:
        import select
        import termios
        import tty
    except ImportError:
        return b""
    keyboard = sys.stdin.fileno()
    answer = b""
    with suppress(termios.error, OSError):
        before = termios.tcgetattr(keyboard)
        try:
            tty.setcbreak(keyboard)
            sys.stdout.write(question)
            sys.stdout.flush()
            end = time.monotonic() + SECONDS
            while not _ATTRIBUTES_ANSWER.search(answer):
                left = end - time.monotonic()
                if left <= 0 or not select.select([keyboard], [], [], left)[0]:
                    break
                answer += os.read(keyboard, 1024)
        finally:
            # Leaves nothing of a late answer to be read as typed.
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return answer
