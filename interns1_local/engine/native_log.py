"""What llama.cpp prints, kept in memory so that an error can say why."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque

from interns1_local.engine.native import llama_cpp, mtmd_cpp

# llama.cpp runs a debugger for a back trace when it aborts, which takes seconds.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

KEPT_LINES = 200
SHOWN_LINES = 6
_INFO, _WARNING, _ERROR, _CONTINUED = 2, 3, 4, 5

_lines: deque[tuple[int, str]] = deque(maxlen=KEPT_LINES)
_lock = threading.Lock()
_pending: list[str] = []
_level = _INFO
_echo = _ERROR


def _receive(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
    global _level
    with _lock:
        _level = _level if level == _CONTINUED else level
        _pending.append(text.decode(errors="replace"))
        if not _pending[-1].endswith("\n"):
            return
        line = "".join(_pending).rstrip()
        _pending.clear()
        if line:
            _lines.append((_level, line))
    if line and _level >= _echo:
        print(line, file=sys.stderr, flush=True)


_callback = llama_cpp.llama_log_callback(_receive)


def capture(echo_all: bool = False) -> None:
    """Take over the libraries' logs. Errors still reach stderr; with `echo_all` everything does."""
    global _echo
    _echo = 0 if echo_all else _ERROR
    nothing = ctypes.c_void_p(0)
    llama_cpp.llama_log_set(_callback, nothing)
    mtmd_cpp.mtmd_log_set(_callback, nothing)
    mtmd_cpp.mtmd_helper_log_set(_callback, nothing)


def forget() -> None:
    """Start afresh, before an operation whose complaints are wanted."""
    with _lock:
        _lines.clear()
        _pending.clear()


def complaints() -> str:
    """The latest errors, or warnings when there are none, as text to be added to a message."""
    with _lock:
        kept = list(_lines)
    for least in (_ERROR, _WARNING):
        # A damaged model is found so by whoever reads it for the vision file too.
        found = list(dict.fromkeys(line for level, line in kept if level >= least))
        if found:
            return ": " + "; ".join(found[-SHOWN_LINES:])
    return ""
