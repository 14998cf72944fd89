"""The start of llama.cpp in this process. Apart from what computes with it, which takes longer to import."""

from __future__ import annotations

import threading

from interns1_local.config import backend_paths
from interns1_local.engine import native_log
from interns1_local.engine.backend_files import add_backends
from interns1_local.engine.native import llama_cpp

_lock = threading.Lock()
_ready = False


def start_backend(debug: bool = False) -> None:
    """Start llama.cpp once a process, with its logs taken over and the backends that INTERNS1_BACKENDS adds."""
    global _ready
    with _lock:
        if not _ready:
            native_log.capture(debug)
            add_backends(backend_paths())
            llama_cpp.llama_backend_init()
            _ready = True
