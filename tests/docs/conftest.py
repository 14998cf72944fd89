"""One server for all pages and mistakes, over a store with the nano and the names that the pages give to big models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Kit:
    """A server at `address` (host:port), its environment, and GGUF files by the names that pages give them."""

    address: str
    environ: Mapping[str, str]
    gguf: Mapping[str, Path]

    def set_desk(self, folder: Path) -> Desk:
        return set_desk(folder, self.address, self.environ, self.gguf)


@contextmanager
def make_kit(folder: Path) -> Iterator[Kit]:
    """A kit whose files are in `folder`."""
    environ = {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(folder),
        "INTERNS1_MODELS": str(folder / "models"),
        "INTERNS1_KEEP_ALIVE": "10m",
        "INTERNS1_THREADS": "2",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
    }
    model, mmproj = folder / "model-F16.gguf", folder / "mmproj.gguf"
    convert(CHECKPOINT, model, type="F16", mmproj=mmproj, mmproj_type="F16")
    with own_server(environ) as client:
        client.post("/api/pull", {"model": MODELS[0], "stream": False})
        for name in MODELS[1:]:
            client.post("/api/copy", {"source": MODELS[0], "destination": name})
        yield Kit(client.base_url.removeprefix("http://"), environ, {path.name: path for path in (model, mmproj)})


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with make_kit(tmp_path_factory.mktemp("docs")) as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path, kit: Kit) -> Desk:
    return kit.set_desk(tmp_path / "desk")
