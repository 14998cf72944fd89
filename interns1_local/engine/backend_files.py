"""Backends that are added to the installed llama.cpp as libraries of their own. For processes that load llama.cpp."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from interns1_local.engine import native_log
from interns1_local.engine.devices import registry_library
from interns1_local.engine.native import binding_version
from interns1_local.errors import LoadError

# What benchmarks/gpu_backend.py writes into a library: the version of the package that it goes with.
STAMP = "interns1_built_for"
STAMP_BYTES = 64
_ADVICE = 'build it for the installed one ("Add a GPU to what is installed" in docs/gpu.md), or unset INTERNS1_BACKENDS'

_added: set[Path] = set()


def add_backends(paths: Sequence[Path]) -> None:
    """Load each library and let ggml know its devices; once a process. LoadError says what is wrong with one.

    A driver may still end the process: see runners/devices, which looks in a child first.
    """
    for path in paths:
        if path in _added:
            continue
        if not path.is_file():
            raise LoadError(f"INTERNS1_BACKENDS names {path}, and there is no such file; {_ADVICE}")
        _check_version(path)
        native_log.forget()
        if not registry_library().ggml_backend_load(os.fsencode(path)):
            raise LoadError(
                f"{path} (INTERNS1_BACKENDS) is no backend of this llama.cpp{native_log.complaints()}; {_ADVICE}"
            )
        _added.add(path)


def _check_version(path: Path) -> None:
    """ggml compares the number of its interface, which stays the same where structures change."""
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LoadError(f"{path} (INTERNS1_BACKENDS) cannot be loaded: {error}; {_ADVICE}") from None
    try:
        built_for = (ctypes.c_char * STAMP_BYTES).in_dll(library, STAMP).value.decode(errors="replace")
    except ValueError:
        return  # built by others
    installed = binding_version()
    if built_for != installed:
        raise LoadError(
            f"{path} (INTERNS1_BACKENDS) was built for llama-cpp-python {built_for}, and {installed} is installed; "
            f"{_ADVICE}"
        )
