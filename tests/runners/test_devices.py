"""The list of devices: made by a child process, read with suspicion, kept for a while; and the memory there is."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from interns1_local.errors import LoadError
from interns1_local.runners.devices import (
    CACHE_SECONDS,
    DeviceList,
    available_memory,
    machine_memory,
    machine_of,
    read_list,
)

GIB = 2**30
LISTED = {
    "version": "0.3.36",
    "backends": ["CUDA", "CPU"],
    "mlock": True,
    "devices": [
        {"name": "CUDA0", "description": "GPU", "type": "gpu", "backend": "CUDA", "free": 5, "total": 9},
        {"name": "CPU", "description": "CPU", "type": "cpu", "backend": "CPU", "free": 7, "total": 7},
    ],
}


def test_the_real_machine_has_a_processor_and_memory() -> None:
    machine = DeviceList().machine()
    assert "CPU" in machine.backends
    assert [device.type for device in machine.devices].count("cpu") == 1
    assert 0 < machine.memory_free <= machine.memory_total
    assert machine.version and machine.system_info


def test_who_asks_loads_no_llama_cpp() -> None:
    code = (
        "import sys; from interns1_local.runners.devices import DeviceList; DeviceList().machine(); "
        "assert 'llama_cpp' not in sys.modules; print(any('ggml' in line for line in open('/proc/self/maps')))"
    )
    if not Path("/proc/self/maps").exists():
        code = code.partition("print")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("False", "")


def test_the_list_is_remembered_and_memory_is_not() -> None:
    runs, now, memory = [], [0.0], [(9 * GIB, 4 * GIB)]

    def run() -> str:
        runs.append(1)
        return "a driver says hello\n" + json.dumps(LISTED)

    listing = DeviceList(run, lambda: now[0], lambda: memory[0])
    machine = listing.machine()
    assert [gpu.name for gpu in machine.gpus] == ["CUDA0"]
    assert (machine.memory_total, machine.memory_free, machine.can_lock) == (9 * GIB, 4 * GIB, True)
    memory[0] = (9 * GIB, GIB)
    assert listing.machine().memory_free == GIB
    assert len(runs) == 1
    listing.machine(fresh=True)
    now[0] = CACHE_SECONDS + 1
    listing.machine()
    assert len(runs) == 3


@pytest.mark.parametrize(
    ("backends", "runs"), [(["CPU"], 1), (["RPC", "CPU"], 1), (["CUDA", "CPU"], 3), (["Vulkan"], 3), (None, 3)]
)
def test_devices_that_neither_come_nor_go_are_listed_once(backends: list[str] | None, runs: int) -> None:
    listed, now, asked = {"devices": LISTED["devices"][1:], "backends": backends}, [0.0], []
    if backends is None:
        del listed["backends"]

    def run() -> str:
        asked.append(1)
        return json.dumps(listed)

    listing = DeviceList(run, lambda: now[0], lambda: (GIB, GIB))
    listing.machine()
    now[0] = 2 * CACHE_SECONDS
    listing.machine()
    listing.claim("a model", {})
    listing.release("a model")
    listing.machine()
    assert len(asked) == runs
    listing.machine(fresh=True)
    assert len(asked) == runs + 1


def test_a_look_ahead_is_what_the_first_to_ask_gets() -> None:
    asked, begun, answer = [], threading.Event(), threading.Event()

    def run() -> str:
        asked.append(1)
        begun.set()
        assert answer.wait(20)
        return json.dumps(LISTED) if len(asked) > 1 else "no list"

    listing = DeviceList(run, memory=lambda: (GIB, GIB))
    listing.look()
    assert begun.wait(20)
    answer.set()
    # What went wrong then may be right by now.
    assert listing.machine().gpus
    listing.machine()
    assert len(asked) == 2


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '{"devices": 3}', "{"])
def test_what_is_no_list(text: str) -> None:
    with pytest.raises(LoadError, match="did not list its devices"):
        read_list(text)


def test_a_device_without_its_fields() -> None:
    with pytest.raises(LoadError, match="cannot be understood"):
        machine_of({"devices": [{"name": "CUDA0"}]}, GIB, GIB)


def test_a_child_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interns1_local.runners.devices._MODULE", "interns1_local.engine.no_such_module")
    with pytest.raises(LoadError, match=r"exit code 1.*no_such_module"):
        DeviceList().machine()


def files(root: Path, content: dict[str, str]) -> Path:
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable:   {8 * GIB // 1024} kB\n"}
TWO = {
    "proc/self/cgroup": "0::/user/app\n",
    "sys/fs/cgroup/user/memory.max": "max\n",
    "sys/fs/cgroup/user/memory.current": "1\n",
    "sys/fs/cgroup/user/app/memory.max": f"{GIB}\n",
    "sys/fs/cgroup/user/app/memory.current": f"{GIB // 2}\n",
    "sys/fs/cgroup/user/app/memory.stat": f"anon 5\ninactive_file {GIB // 8}\nactive_file {GIB // 8}\n",
}
ONE = {
    "proc/self/cgroup": "4:cpu,memory:/job\n1:name=systemd:/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GIB // 4}\n",
    "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GIB // 4}\n",
    "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 3\ntotal_inactive_file {GIB // 16}\n",
}
INSIDE = {
    "proc/self/cgroup": "0::/../other\n",
    "sys/fs/cgroup/memory.max": f"{GIB}\n",
    "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
}


@pytest.mark.parametrize(
    ("content", "total", "free"),
    [
        (MEMINFO, None, 8 * GIB),
        (MEMINFO | TWO, GIB, GIB // 2 + GIB // 4),
        (MEMINFO | ONE, GIB // 4, GIB // 16),
        (MEMINFO | INSIDE, GIB, 0),
        ({}, None, None),
    ],
)
def test_memory_within_the_limits_of_a_container(
    tmp_path: Path, content: dict[str, str], total: int | None, free: int | None
) -> None:
    root = files(tmp_path, content)
    assert machine_memory(root) == (total or machine_memory(tmp_path / "none"))
    assert available_memory(root) == (machine_memory(root) // 2 if free is None else free)
