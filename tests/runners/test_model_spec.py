"""What metadata says of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from interns1_local.errors import LoadError, ModelNotFound
from interns1_local.runners.model_spec import ModelSpec, _capabilities, read_model_facts


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
