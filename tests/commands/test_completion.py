"""Shell completion: the script of each shell, and what it offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script(invoke, shell: str) -> None:  # type: ignore[no-untyped-def]
    result = invoke("completion", shell)
    assert result.exit_code == 0 and "_INTERNS1_COMPLETE" in result.output


def test_words() -> None:
    environ = os.environ | {"_INTERNS1_COMPLETE": "bash_complete", "COMP_WORDS": "interns1 qu", "COMP_CWORD": "1"}
    code = "from interns1_local.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert {line.partition(",")[2] for line in done.stdout.split()} == {"quantize", "quality"}
