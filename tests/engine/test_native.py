"""The door to llama.cpp: its C functions without the package's Python, and the whole package for who asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_packages_own_python_is_not_run() -> None:
    run(
        "import sys, interns1_local.engine.engine, interns1_local.runners.worker\n"
        "assert 'llama_cpp.llama' not in sys.modules and 'jinja2' not in sys.modules"
    )


@pytest.mark.parametrize(
    "first",
    ["import interns1_local.engine.native", "import llama_cpp", "from llama_cpp import mtmd_cpp", ""],
    ids=["ours first", "package first", "a part first", "package alone"],
)
@pytest.mark.parametrize(
    "then",
    ["import llama_cpp; found = llama_cpp.Llama", "from llama_cpp import Llama as found"],
    ids=["attribute", "from"],
)
def test_the_whole_package_is_there_for_who_asks(first: str, then: str) -> None:
    run(
        f"{first}\n{then}\n"
        "import llama_cpp, sys\n"
        "from interns1_local.engine import native\n"
        "assert found.__module__ == 'llama_cpp.llama' and llama_cpp.__version__ == native.binding_version()\n"
        "assert native.llama_cpp is sys.modules['llama_cpp.llama_cpp'] is llama_cpp.llama_cpp\n"
        "assert llama_cpp.llama_batch is native.llama_cpp.llama_batch and not hasattr(llama_cpp, 'nothing')"
    )
