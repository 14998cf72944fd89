"""The mmproj file: rolled positions, types, keys; towers that llama.cpp computes and towers that it does not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.architectures import interns1_vision
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint, ConvertError, UnsupportedArchitecture
from convert.hf_to_gguf import convert
from quant.gguf_file import read_metadata
from tests.tiny import tiny_interns1, vision_tensors


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    for key, value in changes.items():
        (config if key in config and key not in vision else vision)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def mmproj_of(folder: Path, type: str = "F32") -> Path:
    convert(folder, folder / "model.gguf", mmproj=folder / "mmproj.gguf", mmproj_type=type, jobs=1)
    return folder / "mmproj.gguf"


def test_position_rows_are_rolled(tmp_path: Path) -> None:
    path = mmproj_of(tiny_interns1(tmp_path / "checkpoint", dtype="F32"))
    positions = vision_tensors(56, 1)["model.vision_tower.embeddings.position_embeddings"][0]
    expected = np.concatenate([positions[1:], positions[:1]])
    tensor = next(tensor for tensor in read_metadata(path).tensors if tensor.name == "v.position_embd.weight")
    assert (tensor.shape, tensor.type) == ((17, 64), "F32")
    assert path.read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes] == expected.tobytes()


@pytest.mark.parametrize(("type", "patches"), [("F32", "F32"), ("F16", "F16"), ("BF16", "F32"), ("Q8_0", "F32")])
def test_types(type: str, patches: str, tmp_path: Path) -> None:
    metadata = read_metadata(mmproj_of(tiny_interns1(tmp_path / "checkpoint"), type))
    types = {tensor.name: tensor.type for tensor in metadata.tensors}
    for name in ("v.blk.1.attn_out.weight", "v.blk.0.ffn_up.weight", "mm.model.mlp.1.weight", "mm.model.mlp.3.weight"):
        assert types[name] == type
    assert types["v.patch_embd.weight"] == patches
    kept = (
        "v.class_embd",
        "v.position_embd.weight",
        "v.blk.0.ln1.weight",
        "v.blk.0.ls2.weight",
        "mm.model.mlp.0.weight",
    )
    assert {types[name] for name in (*kept, "v.blk.0.attn_q.bias", "v.patch_embd.bias")} == {"F32"}


def test_rows_of_the_large_tower_fall_back_to_what_fits() -> None:
    assert interns1_vision.choose_type("v.blk.0.attn_q.weight", (3200, 3200), "Q8_0") == "Q8_0"
    assert interns1_vision.choose_type("v.blk.0.attn_q.weight", (40, 40), "Q8_0") == "F16"


def test_keys(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", image_size=112)
    keys = read_metadata(mmproj_of(folder, "Q8_0")).fields
    expected = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.file_type": 7,
        "clip.has_vision_encoder": True,
        "clip.projector_type": "internvl",
        "clip.use_gelu": True,
        "clip.vision.image_size": 112,
        "clip.vision.patch_size": 14,
        "clip.vision.embedding_length": 64,
        "clip.vision.feed_forward_length": 128,
        "clip.vision.block_count": 2,
        "clip.vision.projection_dim": 256,
        "clip.vision.attention.head_count": 4,
        "clip.vision.projector.scale_factor": 2,
        "clip.vision.preproc_min_tiles": 1,
        "clip.vision.preproc_max_tiles": 6,
        "interns1.mmproj.cls_last": True,
        "interns1.vision.min_patches": 1,
        "interns1.vision.max_patches": 6,
        "interns1.vision.use_thumbnail": True,
    }
    assert {key: keys[key] for key in expected} == expected
    assert keys["clip.vision.image_mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"norm_type": "rms_norm"}, UnsupportedArchitecture, "width 64 and 2 layers with rms_norm"),
        ({"hidden_act": "silu"}, UnsupportedArchitecture, "hidden_act is 'silu'"),
        ({"use_mean_pooling": False}, UnsupportedArchitecture, "use_mean_pooling"),
        ({"vision_feature_layer": -2}, UnsupportedArchitecture, "vision_feature_layer is -2"),
        ({"image_size": [56, 112]}, UnsupportedArchitecture, "must be square"),
        ({"image_size": 42}, UnsupportedArchitecture, "grid of 3 patches"),
        ({"image_size": 112}, BrokenCheckpoint, r"position_embeddings .*\[1, 17, 64\].*65"),
        ({"use_qk_norm": True}, BrokenCheckpoint, r"q_norm\.weight is missing"),
        ({"num_hidden_layers": 1}, BrokenCheckpoint, r"no place for tensor .*layer\.1"),
        ({"hidden_size": None}, BrokenCheckpoint, "hidden_size is None"),
    ],
)
def test_errors(changes: dict[str, Any], error: type[ConvertError], message: str, tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint")
    edit(folder, **changes)
    with pytest.raises(error, match=message):
        mmproj_of(folder)
    assert not list(folder.glob("*.gguf"))


def sparse_checkpoint(folder: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> None:
    """A checkpoint whose weights are a hole in the file: for plans of models that are too large to make."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    (folder / "config.json").write_text(json.dumps(config))


def test_the_six_billion_tower_can_be_planned(tmp_path: Path) -> None:
    hidden, wide, layers = 3200, 12800, 45
    square, vector = (hidden, hidden), (hidden,)
    at = "model.vision_tower."
    shapes: dict[str, tuple[int, ...]] = {
        f"{at}embeddings.cls_token": (1, 1, hidden),
        f"{at}embeddings.position_embeddings": (1, 1025, hidden),
        f"{at}embeddings.patch_embeddings.projection.weight": (hidden, 3, 14, 14),
        f"{at}embeddings.patch_embeddings.projection.bias": vector,
        "model.multi_modal_projector.linear_1.weight": (4096, 4 * hidden),
        "model.multi_modal_projector.linear_2.weight": (4096, 4096),
        **{f"model.multi_modal_projector.linear_{i}.bias": (4096,) for i in (1, 2)},
        **{f"model.multi_modal_projector.layer_norm.{part}": (4 * hidden,) for part in ("weight", "bias")},
    }
    for layer in range(layers):
        block = f"{at}encoder.layer.{layer}."
        shapes |= {f"{block}attention.{part}_proj.weight": square for part in "qkv"}
        shapes |= {f"{block}attention.{part}_norm.weight": vector for part in "qk"}
        shapes |= {
            f"{block}attention.projection_layer.weight": square,
            f"{block}attention.projection_layer.bias": vector,
        }
        shapes |= {f"{block}layernorm_{part}.weight": vector for part in ("before", "after")}
        shapes |= {f"{block}lambda_{part}": vector for part in "12"}
        shapes |= {f"{block}mlp.fc1.weight": (wide, hidden), f"{block}mlp.fc1.bias": (wide,)}
        shapes |= {f"{block}mlp.fc2.weight": (hidden, wide), f"{block}mlp.fc2.bias": vector}
    tower = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 25, "intermediate_size": wide,
        "image_size": [448, 448], "patch_size": [14, 14], "norm_type": "rms_norm", "use_qk_norm": True,
        "attention_bias": False, "hidden_act": "gelu", "use_mean_pooling": True,
    }  # fmt: skip
    sparse_checkpoint(tmp_path, shapes, {"vision_config": tower, "downsample_ratio": 0.5})
    with Checkpoint(tmp_path) as checkpoint:
        plan = interns1_vision.plan(checkpoint, "model.", 4096)
        assert checkpoint.used == set(shapes)
    names = {tensor.name for tensor in plan.tensors}
    assert "v.blk.44.attn_k_norm.weight" in names and "v.blk.0.ln1.weight" in names
    assert "v.blk.0.ln1.bias" not in names and "v.blk.0.attn_q.bias" not in names
    assert sum(int(np.prod(tensor.shape)) for tensor in plan.tensors) == pytest.approx(5.61e9, rel=0.02)
