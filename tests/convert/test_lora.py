"""A PEFT LoRA converted for a model changes it as merging it into the checkpoint would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.errors import BrokenCheckpoint, ConvertError, UnsupportedArchitecture
from convert.hf_to_gguf import convert
from convert.lora import convert_lora
from interns1_local.store.adapter import check_adapter
from quant.gguf_file import GGUFMetadata, read_metadata
from tests.safetensors_files import decode, encode, write_shards
from tests.tiny import tiny_interns1, tiny_qwen3
from tests.tiny_internlm import tiny_internlm2, tiny_internlm3

RANK, ALPHA = 4, 6
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "modules_to_save": None}
WEIGHTS = "adapter_model.safetensors"
Array = np.ndarray[Any, Any]

FAMILIES: dict[str, tuple[Any, list[str]]] = {
    "qwen3": (
        lambda folder: tiny_qwen3(folder, moe=False),
        ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head", "model.embed_tokens"],
    ),
    "interns1": (
        lambda folder: tiny_interns1(folder, shards=1),
        ["model.language_model.layers.1.self_attn.k_proj", "model.language_model.layers.0.mlp.gate"],
    ),
    "internlm3": (
        tiny_internlm3,
        [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"] + ["model.layers.1.mlp.up_proj"],
    ),
    "internlm2": (tiny_internlm2, ["model.layers.0.attention.wo", "model.layers.1.feed_forward.w3", "output"]),
}


def take_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """All tensors of a checkpoint, whose files go away."""
    found = {}
    for file in folder.glob("model*.safetensors"):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                part = data[8 + length :][slice(*info["data_offsets"])]
                found[name] = info["dtype"], tuple(info["shape"]), part
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    return found


def write_peft(folder: Path, pairs: dict[str, tuple[Array, Array]], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, (a, b) in pairs.items():
        embedding = module.endswith("embed_tokens")
        kind, end = ("lora_embedding_", "") if embedding else ("lora_", ".weight")
        tensors[f"base_model.model.{module}.{kind}A{end}"] = encode(a, "F32")
        tensors[f"base_model.model.{module}.{kind}B{end}"] = encode(b, "F32")
    write_shards(folder, tensors, 1)
    (folder / "model.safetensors").rename(folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def values(metadata: GGUFMetadata) -> dict[str, Array]:
    data = metadata.path.read_bytes()
    return {
        t.name: np.frombuffer(data[t.offset : t.offset + t.n_bytes], np.float32).reshape(t.shape)
        for t in metadata.tensors
        if t.type == "F32"
    }


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_as_if_merged(family: str, rslora: bool, tmp_path: Path) -> None:
    make, modules = FAMILIES[family]
    checkpoint = make(tmp_path / "checkpoint")
    convert(checkpoint, tmp_path / "base.gguf", type="F32")
    tensors, random = take_tensors(checkpoint), np.random.default_rng(1)
    pairs, scale = {}, ALPHA / (RANK**0.5 if rslora else RANK)
    for module in modules:
        weights = decode(tensors[f"{module}.weight"])
        outputs, inputs = weights.shape[::-1] if module.endswith("embed_tokens") else weights.shape
        a, b = random.standard_normal((RANK, inputs)), random.standard_normal((outputs, RANK))
        pairs[module] = a.astype(np.float32), b.astype(np.float32)
        change = scale * (pairs[module][1] @ pairs[module][0])
        merged = weights + (change.T if module.endswith("embed_tokens") else change)
        tensors[f"{module}.weight"] = encode(merged, "F32")
    write_shards(checkpoint, tensors, 1)
    convert(checkpoint, tmp_path / "merged.gguf", type="F32")
    base = read_metadata(tmp_path / "base.gguf")
    convert_lora(write_peft(tmp_path / "lora", pairs, use_rslora=rslora), WEIGHTS, base, tmp_path / "lora.gguf")
    assert check_adapter(tmp_path / "lora.gguf", base.path) == []
    adapter = read_metadata(tmp_path / "lora.gguf")
    before, after, lora = (values(file) for file in (base, read_metadata(tmp_path / "merged.gguf"), adapter))
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert len(changed) == len(modules) and {f"{name}.lora_a" for name in changed} <= lora.keys()
    for name in changed:
        a, b = lora[f"{name}.lora_a"], lora[f"{name}.lora_b"]
        change = adapter.fields["adapter.lora.alpha"] / RANK * (a @ b.T if name == "token_embd.weight" else b @ a)
        assert np.allclose(before[name] + change, after[name], atol=1e-4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GGUFMetadata:
    folder = tmp_path_factory.mktemp("base")
    convert(tiny_internlm3(folder / "checkpoint"), folder / "base.gguf", type="F32")
    return read_metadata(folder / "base.gguf")


WRONG: list[tuple[str, tuple[int, ...], dict[str, Any], type[ConvertError], str]] = [
    ("model.layers.0.attention.wqkv", (64, 4), {}, UnsupportedArchitecture, "holds in another form"),
    ("model.layers.0.mlp.experts.1.up_proj", (64, 4), {}, UnsupportedArchitecture, "holds in another form"),
    ("model.layers.0.mlp.gate", (64, 4), {}, UnsupportedArchitecture, "a model of llama does not have"),
    ("model.vision_tower.encoder.layer.0.output", (64, 4), {}, UnsupportedArchitecture, "only the text model"),
    ("model.layers.0.self_attn.q_proj", (63, 4), {}, BrokenCheckpoint, "has 63 rows, which are not 4 heads"),
    ("model.layers.0.self_attn.q_proj", (64, 2, 2), {}, BrokenCheckpoint, "a matrix was expected"),
    ("lm_head", (64, 4), {"use_dora": True}, UnsupportedArchitecture, "use_dora True; only False"),
    ("lm_head", (64, 4), {"init_lora_weights": "pissa"}, UnsupportedArchitecture, "init_lora_weights .pissa."),
    ("lm_head", (64, 4), {"peft_type": "LOHA"}, UnsupportedArchitecture, "peft_type 'LOHA'; only 'LORA'"),
    ("lm_head", (64, 4), {"modules_to_save": ["lm_head"]}, UnsupportedArchitecture, "modules_to_save"),
    ("lm_head", (64, 4), {"alpha_pattern": {"x": 1}}, UnsupportedArchitecture, "alpha_pattern"),
    ("lm_head", (64, 4), {"lora_alpha": "8"}, BrokenCheckpoint, "a number above 0 was expected"),
    ("lm_head", (64, 4), {"r": None}, BrokenCheckpoint, "has r None"),
]


@pytest.mark.parametrize(("module", "shape", "changes", "error", "message"), WRONG)
def test_what_cannot_be_converted(
    base: GGUFMetadata,
    tmp_path: Path,
    module: str,
    shape: tuple[int, ...],
    changes: dict[str, Any],
    error: type[ConvertError],
    message: str,
) -> None:
    pairs = {module: (np.zeros((4, 64), np.float32), np.zeros(shape, np.float32))}
    with pytest.raises(error, match=message):
        convert_lora(write_peft(tmp_path / "lora", pairs, **changes), WEIGHTS, base, tmp_path / "lora.gguf")
    assert not (tmp_path / "lora.gguf").exists()
