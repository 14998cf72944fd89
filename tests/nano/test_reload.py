"""Which options load a model anew, through a real server: it is seen by the process that computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ollama
import pytest

from benchmarks.load import descendants
from tests.nano.conftest import Converted, store_model


def workers() -> set[int]:
    """The worker processes below this one."""
    found = set()
    for pid in descendants(os.getpid()):
        # One that ended since is none.
        with suppress(OSError):
            if b"interns1_local.runners.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


@pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux, which shows the processes"
)
def test_only_what_the_worker_does_not_fit_loads_it_anew(tmp_path: Path, nano_gguf: Callable[..., Converted]) -> None:
    from interns1_local.commands.own_server import own_server

    environ = {"INTERNS1_MODELS": str(tmp_path), "INTERNS1_CONTEXT_LENGTH": "1024", "INTERNS1_THREADS": "1"}
    others = workers()
    with own_server(environ) as server, ollama.Client(server.base_url) as client:
        store_model(client, "steady", *nano_gguf("F32", "F32"))

        def worker(**options: Any) -> int:
            client.generate("steady", "2 + 2", raw=True, options={"num_predict": 1, **options})
            (pid,) = workers() - others
            return pid

        first = worker()
        fitting: list[dict[str, Any]] = [
            {"num_ctx": 1024},
            {"num_ctx": 512},
            {"num_ctx": 1024, "num_gpu": 99, "use_mmap": True, "kv_cache_type": "f16"},
            {"temperature": 0.3, "seed": 4},
            {},
        ]
        assert [worker(**options) for options in fitting] == [first] * len(fitting)
        second = worker(num_ctx=2048)
        assert second != first
        # What is larger than asked for stays.
        assert worker() == worker(num_ctx=1024) == second
