"""Fixtures for every test: a home of its own, so that no test touches the user's files."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell starts background jobs with Ctrl-C ignored, which programs that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the model store and every setting at an empty folder."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("INTERNS1", "OLLAMA"):
        for variable in ("HOST", "ORIGINS", "KEEP_ALIVE", "NUM_PARALLEL", "CONTEXT_LENGTH", "MAX_LOADED_MODELS", "RPC"):
            monkeypatch.delenv(f"{name}_{variable}", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("INTERNS1_MODELS", str(home / "models"))
    return home
