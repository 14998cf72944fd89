"""Which options load a model anew, through a real server: it is seen by the process that computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.nano.conftest import Converted


def workers() -> set[int]:
    """The worker processes below this one."""
    parents, found = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"interns1_local.runners.worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue

    def is_ours(pid: int) -> bool:
        while pid not in (0, os.getpid()):
            pid = parents.get(pid, 0)
        return pid != 0

    return {pid for pid in found if is_ours(pid)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux, which shows the processes")
def test_only_what_the_worker_does_not_fit_loads_it_anew(tmp_path: Path, nano_gguf: Callable[..., Converted]) -> None:
    from interns1_local.commands.own_server import own_server

    model, mmproj = nano_gguf("F32", "F32")
    environ = {"INTERNS1_MODELS": str(tmp_path), "INTERNS1_CONTEXT_LENGTH": "1024", "INTERNS1_THREADS": "1"}
    others = workers()
    with own_server(environ) as server, ollama.Client(server.base_url) as client:
        client.create(model="steady", files={path.name: client.create_blob(path) for path in (model, mmproj)})

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
