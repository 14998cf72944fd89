"""Memory that the system does not give: llama.cpp says so and the process lives on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from interns1_local import child_python

SCRIPT = """
import resource, sys
from pathlib import Path
from interns1_local.engine.engine import Engine, EngineOptions
from interns1_local.errors import LoadError

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path = Path(sys.argv[1])
try:
    Engine(path, None, EngineOptions(n_ctx=2**24, n_threads=1, n_seq_max=1))
except LoadError as error:
    print(error.message)
Engine(path, None, EngineOptions(n_ctx=512, n_threads=1, n_seq_max=1)).close()
print("a smaller one is made")
"""


def test_a_cache_that_is_not_given(tiny_model: tuple[Path, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_model[0])],
        env=child_python.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, made = done.stdout.splitlines()
    assert refused.startswith("no context of 16777216 tokens can be made: ") and "memory" in refused
    assert made == "a smaller one is made"
