"""AMX, the matrix unit of recent Xeons, where a compiler's fault has broken llama.cpp's use of it.

GCC 11 before 11.5, 12 before 12.4 and 13 before 13.3 take it that `_tile_loadconfig` reads 8 of a configuration's 64
bytes (GCC's bug 114098), and do not write the others: the first product of quantized weights then ends the process
with SIGILL (llama.cpp's pull request 26954). Debian 12 and Ubuntu 22.04 have such a GCC.

    python -I interns1_local/engine/amx.py --flags [COMPILER]    what CMAKE_ARGS must say here, mostly nothing
    python -m interns1_local.engine.amx --check                  fails if the installed llama.cpp is broken so
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

# What leaves AMX out of a build.
WITHOUT = "-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"
# The first version without the fault in each series that has it; older ones do not know AMX, nor the switch.
_MENDED = {11: 5, 12: 4, 13: 3}


def is_faulty(major: int, minor: int) -> bool:
    """Whether this version of GCC has the fault."""
    return minor < _MENDED.get(major, 0)


def compiler_of(library: bytes) -> str:
    """The faulty GCC that made a library, as compilers sign their work: `GCC 12.2`; "" for any other compiler."""
    found = re.findall(rb"GCC: \([^)\0]*\) (\d{1,3})\.(\d{1,3})", library)
    # Another compiler's name stands beside that of the GCC which made the C library's start code.
    versions = sorted({(int(major), int(minor)) for major, minor in found})
    if b"clang version" in library or not versions or not all(is_faulty(*version) for version in versions):
        return ""
    return "GCC {}.{}".format(*versions[-1])


@cache
def broken_by() -> str:
    """The compiler that broke AMX in the llama.cpp of this process; "" when it is whole, or not used here."""
    from interns1_local.engine.devices import library_path
    from interns1_local.engine.native import llama_cpp

    uses_it = b"AMX_INT8 = 1" in (llama_cpp.llama_print_system_info() or b"")
    return compiler_of(library_path("ggml-cpu").read_bytes()) if uses_it else ""


def flags(compiler: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """WITHOUT, where `compiler` is a faulty GCC and this machine has AMX; else ""."""
    try:
        if "amx_tile" not in cpuinfo.read_text():
            return ""
        # Of GCC alone: Clang has no such switch.
        version = subprocess.run([*compiler.split(), "-dumpfullversion"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    found = re.match(r"(\d+)\.(\d+)", version.stdout)
    return WITHOUT if found is not None and is_faulty(int(found[1]), int(found[2])) else ""


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "--flags":
        print(flags(" ".join(arguments[1:]) or "c++"))
        return 0
    return 3 if broken_by() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
