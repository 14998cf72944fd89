"""Placement of tensors and types of the cache, as llama.cpp takes them on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interns1_local.engine.attention import PLAIN_KV_TYPES
from interns1_local.engine.llama import Batch, Context, Model
from interns1_local.engine.offload import KV_TYPES, Offload
from interns1_local.errors import BadRequest, LoadError
from interns1_local.runners.load_options import KV_TYPES as OFFERED
from tests.runners.shapes import SMALL, write_sparse


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse(tmp_path_factory.mktemp("sparse") / "small.gguf", SMALL)


@pytest.fixture(scope="module")
def model(small: Path) -> Iterator[Model]:
    loaded = Model(small, offload=Offload(overrides=((r"\.ffn_up", "CPU"),), n_cpu_moe=2))
    yield loaded
    loaded.close()


def test_the_types_offered_are_those_that_the_engine_knows() -> None:
    assert set(OFFERED) == set(KV_TYPES)


@pytest.mark.parametrize("kv_type", [*KV_TYPES, "q8_0/f16", "f16/q4_0"])
@pytest.mark.parametrize("flash_attention", ["auto", "on", "off"])
def test_every_type_of_cache(model: Model, kv_type: str, flash_attention: str) -> None:
    values = kv_type.rpartition("/")[2]
    if flash_attention == "off" and values not in PLAIN_KV_TYPES:
        with pytest.raises(LoadError, match="quantized"):
            Context(model, 256, 64, 4, 1, kv_type, flash_attention=flash_attention)
        return
    context = Context(model, 256, 64, 4, 1, kv_type, flash_attention=flash_attention)
    batch = Batch(8)
    batch.add([1, 1], 0, 0, 1)
    context.decode(batch)
    context.close()


def test_a_device_that_is_not_there(model: Model, small: Path) -> None:
    with pytest.raises(BadRequest, match="no device 'CUDA7'; this machine has CPU"):
        Model(small, offload=Offload(overrides=(("a", "CUDA7"),)))
    with pytest.raises(BadRequest, match="kv_cache_type"):
        Context(model, 256, 64, 4, 1, "q8_0/q9")
