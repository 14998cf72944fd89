"""Compilers that break AMX: known by their version, left alone where they do no harm, and worked around."""

from __future__ import annotations

from pathlib import Path

import pytest

from interns1_local.commands.machine_report import check_installation
from interns1_local.config import Settings
from interns1_local.engine import amx, devices, offload
from interns1_local.engine.native import llama_cpp
from interns1_local.runners.devices import Machine
from interns1_local.runners.fit import fit
from interns1_local.runners.known_shapes import KNOWN
from interns1_local.runners.load_options import LoadOptions

DEBIAN_12 = b"\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0"
GIB = 2**30


@pytest.mark.parametrize(
    ("version", "faulty"),
    [
        ((10, 2), False), ((11, 4), True), ((11, 5), False), ((12, 2), True), ((12, 4), False), ((13, 2), True),
        ((13, 3), False), ((14, 1), False), ((15, 2), False),
    ],
)  # fmt: skip
def test_versions_with_the_fault(version: tuple[int, int], faulty: bool) -> None:
    assert amx.is_faulty(*version) == faulty


@pytest.mark.parametrize(
    ("library", "compiler"),
    [
        (DEBIAN_12, "GCC 12.2"),
        (b"\x7fELF" + b"GCC: (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0\0" * 2, "GCC 11.4"),
        (b"GCC: (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0\0", ""),
        # The C library's start code is older than the rest.
        (b"GCC: (GNU) 12.2.0\0GCC: (GNU) 14.2.0\0", ""),
        (DEBIAN_12 + b"Debian clang version 14.0.6\0", ""),
        (b"", ""),
    ],
)
def test_a_library_says_who_made_it(library: bytes, compiler: str) -> None:
    assert amx.compiler_of(library) == compiler


@pytest.mark.parametrize(
    ("said", "cpu", "expected"),
    [
        ("12.2.0", "flags : avx2 amx_tile amx_int8", amx.WITHOUT),
        ("12.2.0", "flags : avx2", ""),
        ("14.2.0", "flags : amx_tile", ""),
        ("clang version 14.0.6", "flags : amx_tile", ""),
    ],
)
def test_what_a_build_on_this_machine_needs(said: str, cpu: str, expected: str, tmp_path: Path) -> None:
    compiler, cpuinfo = tmp_path / "c++", tmp_path / "cpuinfo"
    compiler.write_text(f"#!/bin/sh\necho {said}\n")
    compiler.chmod(0o755)
    cpuinfo.write_text(cpu)
    assert amx.flags(str(compiler), cpuinfo) == expected
    assert amx.flags(str(tmp_path / "none"), cpuinfo) == amx.flags(str(compiler), tmp_path / "none") == ""


def test_a_broken_build_computes_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libggml-cpu.so.0"
    library.write_bytes(DEBIAN_12)
    installed = devices.library_path
    monkeypatch.setattr(devices, "library_path", lambda stem: library if stem == "ggml-cpu" else installed(stem))
    for info, compiler in ((b"CPU : AVX512 = 1 | AMX_INT8 = 1 |", "GCC 12.2"), (b"CPU : AVX512 = 1 |", "")):
        monkeypatch.setattr(llama_cpp, "llama_print_system_info", lambda info=info: info)
        amx.broken_by.cache_clear()
        try:
            assert amx.broken_by() == compiler
            assert bool(offload.model_params(offload.ON_CPU)[0].use_extra_bufts) == (not compiler)
        finally:
            amx.broken_by.cache_clear()


def test_a_broken_build_copies_no_weights_and_is_told_of() -> None:
    info = "CPU : AVX2 = 1 | AMX_INT8 = 1 | REPACK = 1 |"
    broken = Machine(memory_total=32 * GIB, memory_free=32 * GIB, system_info=info, amx_broken_by="GCC 12.2")
    ram = fit(LoadOptions(), KNOWN["intern-s1-mini"].shape("Q4_K_M"), broken).ram
    assert not ram.weights and ram.mapped > 4 * GIB
    check = next(check for check in check_installation(Settings(), broken) if check.name == "AMX")
    assert not check.well and "GCC 12.2" in check.text and amx.WITHOUT in check.advice
    assert "AMX" not in [check.name for check in check_installation(Settings(), Machine())]
