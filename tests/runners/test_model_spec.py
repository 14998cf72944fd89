"""What metadata says of a model, and the load options that follow from model and machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from interns1_local.config import Settings
from interns1_local.errors import BadRequest, LoadError, ModelNotFound
from interns1_local.runners.memory import choose_cells, complete_options, physical_cores
from interns1_local.runners.model_spec import LoadOptions, ModelSpec, _capabilities, read_model_facts

GIB = 2**30


def facts(context_length: int = 262144, kv_bytes_per_token: int = 147456) -> SimpleNamespace:
    return SimpleNamespace(context_length=context_length, kv_bytes_per_token=kv_bytes_per_token, dynamic_rope=None)


def test_facts_of_a_model_with_a_vision_tower(tiny_spec: ModelSpec) -> None:
    found = read_model_facts(tiny_spec.model_path, tiny_spec.mmproj_path)
    assert (found.architecture, found.quantization, found.context_length) == ("qwen3moe", "F32", 4096)
    assert found.capabilities == ("completion", "tools", "vision", "thinking")
    assert (found.vision.tile_size, found.vision.tokens_per_tile) == (56, 4)
    # Two layers, two KV heads of 64, keys and values, two bytes each.
    assert found.kv_bytes_per_token == 2 * 2 * 64 * 2 * 2
    assert found.eos_token == "<|im_end|>"
    assert found.sampling_defaults["top_k"] == 50
    assert read_model_facts(tiny_spec.model_path, tiny_spec.mmproj_path) is found
    assert read_model_facts(tiny_spec.model_path).vision is None


@pytest.mark.parametrize(
    ("values", "template", "expected"),
    [
        ({}, None, ("completion",)),
        ({}, "{{ tools }}", ("completion", "tools")),
        ({}, "<tool_call>", ("completion", "tools")),
        ({}, "<think>", ("completion",)),
        ({}, "<think></think>", ("completion", "thinking")),
        ({}, "{{ content.split('</think>') }}", ("completion", "thinking")),
        ({"qwen3.vision.block_count": 4}, "", ("completion", "vision")),
        ({"qwen3.pooling_type": 1}, "tools", ("embedding",)),
    ],
)
def test_capabilities(values: dict[str, int], template: str | None, expected: tuple[str, ...]) -> None:
    assert _capabilities(values, "qwen3", template, None) == expected


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        read_model_facts(tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(10))
    with pytest.raises(LoadError, match="broken"):
        read_model_facts(broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ctx": "8k"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": 0}, "at least 1"),
        ({"num_gpu": -2}, "at least -1"),
        ({"kv_cache_type": 3}, "string"),
        ({"use_mmap": 1}, "boolean"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        LoadOptions.from_options(options)


@pytest.mark.parametrize(
    ("wanted", "settings", "memory", "num_ctx"),
    [
        (LoadOptions(), Settings(), 64 * GIB, 32768),
        (LoadOptions(), Settings(), 8 * GIB, 14336),
        (LoadOptions(), Settings(), GIB // 4, 2048),
        (LoadOptions(), Settings(context_length=9000), GIB, 9000),
        (LoadOptions(num_ctx=5000), Settings(context_length=9000), GIB, 5000),
        (LoadOptions(num_ctx=999999), Settings(), GIB, 262144),
    ],
)
def test_context_by_wish_settings_and_memory(
    wanted: LoadOptions, settings: Settings, memory: int, num_ctx: int
) -> None:
    assert complete_options(wanted, facts(), settings, memory, cores=3).num_ctx == num_ctx


def test_complete_options_have_no_gap() -> None:
    complete = complete_options(LoadOptions(), facts(4096, 1024), Settings(), GIB, cores=3)
    assert complete == LoadOptions(4096, 512, -1, 3, 8, "f16", True)
    assert complete.satisfies(LoadOptions())
    assert physical_cores() >= 1


def test_cells_are_one_context_at_least_and_several_where_they_are_small() -> None:
    options = LoadOptions(num_ctx=4096, num_parallel=8)
    assert choose_cells(options, facts(kv_bytes_per_token=147456)) == 4096
    assert choose_cells(options, facts(kv_bytes_per_token=1024)) == 4 * 4096
    assert choose_cells(LoadOptions(num_ctx=4096, num_parallel=1), facts(kv_bytes_per_token=1024)) == 4096
