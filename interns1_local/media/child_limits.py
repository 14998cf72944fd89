"""Limits that a child process of ours sets itself before it opens what may be hostile."""

from __future__ import annotations

import os
from contextlib import suppress


def limit_this_process(memory: int, cpu_seconds: int, last_cpu_seconds: int) -> None:
    """Little priority, `memory` bytes, no core file, and an end even when nobody is left to end it.

    After `cpu_seconds` the process is asked to end, after `last_cpu_seconds` it is ended. Systems that have none of
    this leave it out.
    """
    with suppress(OSError, AttributeError):
        os.nice(5)
    try:
        import resource
    except ImportError:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, last_cpu_seconds))
