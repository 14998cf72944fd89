"""A server over a store with small models and a scripted runner: in this process, and on a loopback port."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.testclient import TestClient

from interns1_local.config import Settings
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.server.app import create_app
from interns1_local.server.services import resolver
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import PLAIN_TEMPLATE, FakeBackend, write_gguf, write_mmproj


@pytest.fixture(scope="session")
def made_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` sees, thinks and calls tools; `plain` does none of that."""
    folder = tmp_path_factory.mktemp("made")
    store = ModelStore(folder / "models")
    model, mmproj = write_gguf(folder / "tiny.gguf", temp=0.25), write_mmproj(folder / "mmproj.gguf")
    create(store, ModelName.parse("tiny"), ModelPlan(files={"m": model, "p": mmproj}, parameters={"top_k": 7}))
    plain = write_gguf(folder / "plain.gguf", PLAIN_TEMPLATE)
    create(store, ModelName.parse("plain"), ModelPlan(files={"m": plain}, system="Be plain."))
    return store.root


@pytest.fixture
def store(made_models: Path, tmp_path: Path) -> ModelStore:
    """A copy of the made models, as writing them anew waits for the disk each time."""
    shutil.copytree(made_models, tmp_path / "models")
    return ModelStore(tmp_path / "models")


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def client(store: ModelStore, backend: FakeBackend) -> Iterator[TestClient]:
    with TestClient(
        make_app(store, backend), raise_server_exceptions=False, base_url="http://127.0.0.1:11434"
    ) as client:
        yield client


@pytest.fixture
def live_url(store: ModelStore, backend: FakeBackend) -> Iterator[str]:
    """The same server under uvicorn on a free port."""
    with live(make_app(store, backend)) as url:
        yield url


@contextmanager
def live(app: Starlette) -> Iterator[str]:
    """The address of `app` under uvicorn on a free port."""
    config = uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def make_app(store: ModelStore, backend: FakeBackend, **choices: Any) -> Starlette:
    settings = Settings(models_dir=store.root, noprune=True, **choices)
    scheduler = ModelScheduler(settings, resolver(store), start_runner=backend.start)
    return create_app(settings, store, scheduler)
