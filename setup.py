"""Builds quant/kernels/_native, the optional C kernels; everything else about the package stands in pyproject.toml.

The result is a plain shared library without Python's headers. Where it cannot be built (no C compiler, another
processor, MSVC), the package works without it.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("quant/kernels/native")
# Fused or reordered float operations would change bytes, whatever CFLAGS say.
FLAGS = [
    *("-std=gnu11", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-lto"),
    *("-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
]
LEVELS = {
    "plain": (4, []),
    "avx2": (8, ["-mavx2"]),
    "avx512": (16, ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]),
}


class BuildKernels(build_ext):
    """Compiles the one kernel source once for each CPU level."""

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type != "unix":
            raise CompileError(f"the kernels need GCC or Clang, not {self.compiler.compiler_type}")
        objects, built = [], []
        for level in LEVELS:
            try:
                objects += self._compile_level(level, ext)
                built.append(level)
            except CompileError:
                if level == "plain":
                    raise
        defines = [(f"HAVE_{level.upper()}", "1") for level in built]
        objects += self._compile("dispatch.c", "dispatch", defines, [], ext)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, str(target))

    def _compile_level(self, level: str, ext: Extension) -> list[str]:
        lanes, flags = LEVELS[level]
        return self._compile("level.c", level, [("LANES", str(lanes)), ("ENTRY", f"quantize_{level}")], flags, ext)

    def _compile(
        self, source: str, folder: str, defines: list[tuple[str, str]], flags: list[str], ext: Extension
    ) -> list[str]:
        return self.compiler.compile(
            [str(NATIVE / source)],
            output_dir=str(Path(self.build_temp) / folder),
            macros=defines,
            extra_postargs=[*FLAGS, *flags],
            depends=ext.depends,
        )


KERNELS = Extension(
    "quant.kernels._native",
    sources=[str(NATIVE / "dispatch.c"), str(NATIVE / "level.c")],
    depends=sorted(str(path) for path in NATIVE.glob("*.h")),
    optional=True,
)

x86_64 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
setup(ext_modules=[KERNELS] if x86_64 else [], cmdclass={"build_ext": BuildKernels})
