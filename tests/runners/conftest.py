"""A tiny model, and runners over it that never outlive their test."""

from __future__ import annotations

from pathlib import Path

import pytest

from interns1_local.config import Settings
from interns1_local.runners.model_spec import LoadOptions, ModelSpec
from tests.tiny import tiny_gguf


@pytest.fixture(scope="session")
def tiny_spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    model, mmproj = tiny_gguf(tmp_path_factory.mktemp("tiny_runner"))
    return ModelSpec("tiny", "sha256:0", Path(model), Path(mmproj), LoadOptions(num_ctx=2048))


@pytest.fixture
def quick() -> Settings:
    return Settings(threads=1, load_timeout=60.0)
