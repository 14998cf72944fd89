"""Fixtures for every test: a home of its own, so that no test touches the user's files, and the nano as GGUF files."""

from __future__ import annotations

import signal
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def nano_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """`nano_gguf("Q4_K_M", "F32")` -> (model, mmproj) of the shipped checkpoint, converted once."""
    from convert.hf_to_gguf import convert
    from interns1_local.nano import CHECKPOINT

    folder = tmp_path_factory.mktemp("nano")
    done: dict[tuple[str, str], tuple[Path, Path]] = {}

    def get(type_name: str, mmproj_type: str = "Q8_0") -> tuple[Path, Path]:
        if (type_name, mmproj_type) not in done:
            target = folder / f"{type_name}-{mmproj_type}"
            target.mkdir()
            paths = target / "nano.gguf", target / "mmproj.gguf"
            convert(CHECKPOINT, paths[0], type=type_name, mmproj=paths[1], mmproj_type=mmproj_type)
            done[type_name, mmproj_type] = paths
        return done[type_name, mmproj_type]

    return get
