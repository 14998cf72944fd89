"""The only door to llama-cpp-python: its C functions, and nothing of its Python.

The package's own `__init__` loads chat formats, templates and caches, which takes longer than all the rest of a worker.
It is run when somebody asks the package for one of its names, as `from llama_cpp import Llama` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from functools import cache
from types import ModuleType
from typing import Any

_PACKAGE = "llama_cpp"


def _bare_package() -> ModuleType:
    """The package with a place for its modules, its `__init__` not run yet."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed: pip install llama-cpp-python", name=_PACKAGE)
    package, loader = importlib.util.module_from_spec(spec), spec.loader
    lock, begun = threading.RLock(), False

    def missing(name: str) -> Any:
        nonlocal begun
        with lock:
            if not begun and importlib.util.find_spec(f"{_PACKAGE}.{name}") is not None:
                return importlib.import_module(f"{_PACKAGE}.{name}")
            if not begun:
                begun = True
                loader.exec_module(package)
        try:
            return vars(package)[name]
        except KeyError:
            raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}", name=name) from None

    vars(package)["__getattr__"] = missing
    return package


if _PACKAGE not in sys.modules:
    sys.modules[_PACKAGE] = _bare_package()

from llama_cpp import llama_cpp, mtmd_cpp  # noqa: E402

__all__ = ["binding_version", "llama_cpp", "mtmd_cpp"]


@cache
def binding_version() -> str:
    """The installed version of llama-cpp-python."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return "unknown"
