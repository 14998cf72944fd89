"""What `interns1 doctor` says of the machine: graphics hardware, backends for it, and whether all is installed."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from interns1_local.config import Settings
from interns1_local.engine import amx
from interns1_local.runners.devices import Machine

PACKAGE = "llama-cpp-python"
# For a machine whose version is not known.
PINNED = "0.3.36"
LOW_DISK = 10 * 10**9
# Backend by the name that ggml registers -> what builds it.
CMAKE = {
    "CUDA": "-DGGML_CUDA=on",
    "ROCm": "-DGGML_HIP=on",
    "MTL": "-DGGML_METAL=on",
    "Vulkan": "-DGGML_VULKAN=on",
    "SYCL": "-DGGML_SYCL=on -DCMAKE_C_COMPILER=icx -DCMAKE_CXX_COMPILER=icpx",
}
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
# What suits a vendor's hardware, best first.
_BACKENDS = {
    "NVIDIA": ("CUDA", "Vulkan"),
    "AMD": ("ROCm", "Vulkan"),
    "Intel": ("SYCL", "Vulkan"),
    "Apple": ("MTL",),
    "Vulkan": ("Vulkan",),
}
_NEEDS = {
    "CUDA": "the CUDA toolkit (nvcc)",
    "ROCm": "ROCm with hipcc",
    "MTL": "Xcode's command line tools",
    "Vulkan": "the Vulkan SDK (headers and glslc)",
    "SYCL": "the oneAPI toolkit, its setvars.sh sourced",
}


@dataclass(frozen=True, slots=True)
class Hardware:
    """Graphics hardware that is there, and how it was seen."""

    vendor: str
    seen: str


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the examination; `advice` says what to do when it is not well."""

    name: str
    well: bool
    text: str
    advice: str = ""


def rebuild_command(cmake_args: str, version: str = "") -> str:
    """The line that installs llama.cpp anew, built with `cmake_args`."""
    install = f"pip install --force-reinstall --no-cache-dir --no-binary {PACKAGE} {PACKAGE}=={version or PINNED}"
    return f'CMAKE_ARGS="{cmake_args}" {install}'


def find_hardware(root: Path = Path("/")) -> list[Hardware]:
    """Graphics hardware, by the marks that drivers and buses leave; no driver is loaded and nothing is run."""
    found = {}
    if sys.platform == "darwin" and platform.machine() == "arm64" and root == Path("/"):
        found["Apple"] = "Apple silicon"
    if (root / "proc/driver/nvidia/version").exists():
        found["NVIDIA"] = "its driver is loaded (/proc/driver/nvidia)"
    for path in sorted((root / "sys/class/drm").glob("card[0-9]*/device/vendor")):
        vendor = _VENDORS.get(_read(path))
        if vendor:
            found.setdefault(vendor, f"{path.parent.parent.name} in /sys/class/drm")
    if (root / "dev/kfd").exists():
        found.setdefault("AMD", "/dev/kfd, for ROCm")
    drivers = [p for f in ("etc/vulkan/icd.d", "usr/share/vulkan/icd.d") for p in sorted((root / f).glob("*.json"))]
    if drivers:
        found["Vulkan"] = f"Vulkan driver {', '.join(path.stem for path in drivers[:4])}"
    return [Hardware(vendor, seen) for vendor, seen in found.items()]


def missing_backends(hardware: list[Hardware], backends: tuple[str, ...]) -> list[tuple[Hardware, str, str]]:
    """(hardware, backend, what building it needs) for hardware that no compiled backend uses."""
    have = {name.lower() for name in backends} | ({"mtl"} if "Metal" in backends else set())
    missing = []
    for entry in hardware:
        suited = _BACKENDS[entry.vendor]
        if not have & {name.lower() for name in suited}:
            missing.append((entry, suited[0], _NEEDS[suited[0]]))
    return missing


def check_installation(settings: Settings, machine: Machine) -> Iterator[Check]:
    """What an installation needs to work in full."""
    from importlib.util import find_spec

    from quant.kernels import available

    if machine.amx_broken_by:
        text = f"{machine.amx_broken_by} built llama.cpp so that it cannot be used; it is left alone"
        yield Check("AMX", False, text, f"build it anew: {rebuild_command(amx.WITHOUT, machine.version)}")
    kernels = available()
    yield Check(
        "native kernels",
        bool(kernels),
        f"for {', '.join(kernels)}" if kernels else "none: quantizing is several times slower",
        "install again with a C compiler present",
    )
    has_rdkit = find_spec("rdkit") is not None
    yield Check(
        "RDKit",
        has_rdkit,
        "accepts molecules as the reference does" if has_rdkit else "not installed: molecules are found by rules",
        "pip install 'interns1-local[science]'",
    )
    has_films = find_spec("av") is not None
    yield Check("films", has_films, "decoded by PyAV" if has_films else "cannot be decoded", "pip install av")
    yield _store(settings.models_dir)
    yield _disk(settings.models_dir)
    yield _port(settings)


def _store(folder: Path) -> Check:
    at = _existing(folder)
    well = os.access(at, os.W_OK | os.X_OK)
    text = f"{folder} can be written" if well else f"{folder} cannot be written"
    return Check("model store", well, text, "choose another folder with INTERNS1_MODELS")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(_existing(folder)).free
    advice = "a quantized Intern-S1-mini takes 6 GB, Intern-S1 100 GB and more"
    return Check("disk", free > LOW_DISK, f"{free / 1e9:.0f} GB free for models", advice)


def _port(settings: Settings) -> Check:
    try:
        with socket.create_connection((urlsplit(settings.base_url).hostname, settings.port), timeout=1):
            text = f"{settings.base_url} answers: a server is running, or another program has the port"
    except OSError:
        text = f"{settings.base_url} is free"
    return Check("port", True, text)


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
