"""The machine that models are to fit: its devices, as a child process sees them, and its memory."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interns1_local import child_python
from interns1_local.errors import LoadError

CACHE_SECONDS = 5.0
LIST_TIMEOUT = 60.0
RAM = "RAM"
FALLBACK_MEMORY = 8 * 2**30
_MODULE = "interns1_local.engine.device_list"
# Devices that hold layers; the others compute for the CPU.
HOLD_LAYERS = ("gpu", "igpu")
# Of these, RPC lists no device before a worker is added, which the child never does.
FIXED_BACKENDS = frozenset(("CPU", "BLAS", "RPC"))


@dataclass(frozen=True, slots=True)
class Device:
    """One device of ggml. `type` is cpu, gpu, igpu (a GPU that shares the machine's memory), accel, meta or other.

    `free` and `total` are bytes; both 0 when its driver does not say.
    """

    name: str
    description: str
    type: str
    backend: str
    free: int
    total: int

    @property
    def holds_layers(self) -> bool:
        return self.type in HOLD_LAYERS

    @property
    def is_remote(self) -> bool:
        """Whether it is in another machine."""
        return self.backend.startswith("RPC")

    @property
    def shares_memory(self) -> bool:
        """Whether its memory is the machine's own."""
        return self.type == "igpu" or self.backend in ("Metal", "MTL")


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to fit a model to. Memory in bytes; `memory_free` is what a new process may take."""

    devices: tuple[Device, ...] = ()
    memory_total: int = FALLBACK_MEMORY
    memory_free: int = FALLBACK_MEMORY
    backends: tuple[str, ...] = ("CPU",)
    version: str = ""
    system_info: str = ""
    can_lock: bool = False
    # The compiler that broke AMX in llama.cpp, see engine/amx; "": none.
    amx_broken_by: str = ""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """The devices that can hold layers, in llama.cpp's order."""
        return tuple(device for device in self.devices if device.holds_layers)


class DeviceList:
    """Lists the machine's devices in a child process, and remembers them for a few seconds. Any thread may call it."""

    def __init__(
        self,
        run: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._run = run or _run_child
        self._clock = clock
        self._memory = memory or (lambda: (machine_memory(), available_memory()))
        self._lock = threading.Lock()
        self._known: tuple[float, dict[str, Any]] | None = None
        self._claims: dict[object, dict[str, int]] = {}

    def machine(self, fresh: bool = False) -> Machine:
        """The machine now. `fresh` asks the devices again. LoadError when llama.cpp cannot list them."""
        with self._lock:
            now = self._clock()
            if fresh or self._known is None or not (now - self._known[0] <= CACHE_SECONDS or _is_fixed(self._known[1])):
                self._known = now, read_list(self._run())
            listed = self._known[1]
            claimed = self._claimed()
        total, free = self._memory()
        return _less(machine_of(listed, total, free), claimed)

    def look(self) -> None:
        """Have the devices listed by the time that somebody asks. What goes wrong is told to who asks."""

        def list_devices() -> None:
            with suppress(LoadError):
                self.machine()

        threading.Thread(target=list_devices, name="devices", daemon=True).start()

    def claim(self, owner: object, taken: Mapping[str, int]) -> None:
        """Count bytes by device name (RAM for the machine's memory) as taken, beyond what the system says.

        A worker that loads has not taken yet what it will; and weights mapped from a file look free and are not.
        """
        with self._lock:
            self._claims[owner] = dict(taken)

    def release(self, owner: object) -> None:
        """Forget what `owner` has claimed."""
        with self._lock:
            self._claims.pop(owner, None)
            if self._known is not None and not _is_fixed(self._known[1]):
                self._known = None

    def without_claims(self, machine: Machine) -> Machine:
        """`machine` as if all its memory were there for one model."""
        devices = tuple(replace(device, free=device.total) for device in machine.devices)
        return replace(machine, devices=devices, memory_free=machine.memory_total)

    def _claimed(self) -> dict[str, int]:
        summed: dict[str, int] = {}
        for taken in self._claims.values():
            for name, count in taken.items():
                summed[name] = summed.get(name, 0) + count
        return summed


def _less(machine: Machine, claimed: Mapping[str, int]) -> Machine:
    devices = tuple(replace(d, free=max(0, d.free - claimed.get(d.name, 0))) for d in machine.devices)
    return replace(machine, devices=devices, memory_free=max(0, machine.memory_free - claimed.get(RAM, 0)))


def _is_fixed(listed: Mapping[str, Any]) -> bool:
    """Whether the list stays as it is: no backend in it knows devices that come, go or have memory of their own."""
    return set(listed.get("backends", ("?",))) <= FIXED_BACKENDS


def read_list(text: str) -> dict[str, Any]:
    """The JSON that the child printed, after whatever drivers printed before it."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            raise LoadError(found["error"])
        if isinstance(found, dict) and isinstance(found.get("devices"), list):
            return found
    raise LoadError(f"llama.cpp did not list its devices; it printed: {text.strip()[-2000:] or 'nothing'}")


def machine_of(listed: Mapping[str, Any], memory_total: int, memory_free: int) -> Machine:
    """The machine that `listed` (see engine/device_list) describes."""
    try:
        devices = tuple(Device(**{name: entry[name] for name in Device.__slots__}) for entry in listed["devices"])
    except (KeyError, TypeError) as error:
        raise LoadError(f"llama.cpp's list of devices cannot be understood: {error}") from None
    return Machine(
        devices=devices,
        memory_total=memory_total,
        memory_free=memory_free,
        backends=tuple(listed.get("backends", ())),
        version=str(listed.get("version", "")),
        system_info=str(listed.get("system_info", "")),
        can_lock=bool(listed.get("mlock")),
        amx_broken_by=str(listed.get("amx_broken_by", "")),
    )


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory of this machine, or of this container when it has less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        total = FALLBACK_MEMORY
    return min([total, *(limit for limit, _ in _cgroup_limits(root))])


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process may take without anything being swapped out, within the limits of this container.

    Files in the page cache count as free: they can be read again. Memory that nobody tells of is half of all.
    """
    free = [limit - used for limit, used in _cgroup_limits(root)]
    meminfo = _numbers(root / "proc/meminfo")
    free.append(meminfo["MemAvailable"] * 1024 if "MemAvailable" in meminfo else machine_memory(root) // 2)
    return max(0, min(free))


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be dropped) of each control group above this process that has a limit."""
    found = []
    for folder, limit_name, used_name, prefix in _cgroup_folders(root):
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / used_name).read_text())
        except (OSError, ValueError):
            continue
        # Version 1 says "no limit" with a number beyond any machine.
        if limit < 2**60:
            stat = _numbers(folder / "memory.stat")
            cached = sum(stat.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
            found.append((limit, max(0, used - cached)))
    return found


def _cgroup_folders(root: Path) -> list[tuple[Path, str, str, str]]:
    mount = root / "sys/fs/cgroup"
    folders = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            top, names = mount, ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # Inside a container the mount may be the group itself; then the longer paths do not exist.
        folders += [(top.joinpath(*parts[:depth]), *names) for depth in range(len(parts) + 1)]
    return folders


def _numbers(path: Path) -> dict[str, int]:
    """`Name: 12 kB` or `name 12` lines."""
    found = {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[1].isdigit():
            found[words[0]] = int(words[1])
    return found


def _added() -> str:
    """What may be to blame besides llama.cpp."""
    paths = os.environ.get("INTERNS1_BACKENDS")
    return f"; INTERNS1_BACKENDS adds {paths}" if paths else ""


def _run_child() -> str:
    try:
        done = subprocess.run(
            child_python.command(_MODULE),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIST_TIMEOUT,
            env=child_python.environment(GGML_NO_BACKTRACE="1"),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        text = f"llama.cpp did not list its devices within {LIST_TIMEOUT:.0f} s; a driver may hang{_added()}"
        raise LoadError(text) from None
    if done.returncode:
        text = f"llama.cpp cannot list its devices (exit code {done.returncode}{_added()}): {done.stderr[-2000:]}"
        raise LoadError(text)
    return done.stdout


# The machine of this process, with what its workers have been promised.
this_machine = DeviceList()
