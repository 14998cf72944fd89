"""One server for all pages and mistakes, over a store with the nano and the names that the pages give to big models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from convert.hf_to_gguf import convert
from interns1_local.commands.own_server import own_server
from interns1_local.nano import CHECKPOINT
from tests.docs.desk import Desk, set_desk
from tests.docs.pages import ROOT

# Of the user's environment nothing that could change an answer or lead outside.
_KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "SYSTEMROOT")
MODELS = ("nano", "intern-s1-mini")


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("docs")
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {
        **kept,
        "HOME": str(folder),
        "INTERNS1_MODELS": str(folder / "models"),
        "INTERNS1_KEEP_ALIVE": "10m",
        "INTERNS1_THREADS": "2",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
    }


@pytest.fixture(scope="session")
def server(environ: Mapping[str, str]) -> Iterator[str]:
    """`host:port` of a real server."""
    with own_server(environ) as client:
        client.post("/api/pull", {"model": MODELS[0], "stream": False})
        for name in MODELS[1:]:
            client.post("/api/copy", {"source": MODELS[0], "destination": name})
        yield client.base_url.removeprefix("http://")


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The files that pages call `model-F16.gguf` and `mmproj.gguf`."""
    folder = tmp_path_factory.mktemp("gguf")
    model, mmproj = folder / "model-F16.gguf", folder / "mmproj.gguf"
    convert(CHECKPOINT, model, type="F16", mmproj=mmproj, mmproj_type="F16")
    return {path.name: path for path in (model, mmproj)}


@pytest.fixture
def desk(tmp_path: Path, server: str, environ: Mapping[str, str], gguf: Mapping[str, Path]) -> Desk:
    return set_desk(tmp_path / "desk", server, environ, gguf)
