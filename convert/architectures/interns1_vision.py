"""The InternViT tower and projector of Intern-S1 -> an mmproj file.

llama.cpp appends the class token after the patches, while the position table has it first. The table's rows are
therefore rolled by one, so that stock llama.cpp gives every patch its own position; `interns1.mmproj.cls_last` says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert import metadata
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint, UnsupportedArchitecture
from convert.plan import FilePlan, TensorPlan, rolled, whole
from quant.errors import BadTensor
from quant.recipes import fit_to_row

TYPES = ("F32", "F16", "BF16", "Q8_0")

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RMS_TOWER = (
    3200,
    45,
)  # llama.cpp computes RMSNorm for a tower of exactly this width and depth, and LayerNorm for others

# A frame's number in the f-string of the processor, which is only read: Frame{i + 1}:  or  Frame-{i + 1}:
_FRAME_PREFIX = re.compile(r"[\"'](Frame[- ]?)\{\w+ ?\+ ?1\}(: ?)")


def choose_type(name: str, shape: tuple[int, ...], wanted: str) -> str:
    """Vectors, positions and the class token stay F32; llama.cpp takes the patch convolution as F16 or F32 only."""
    if wanted not in TYPES:
        raise BadTensor(f"An mmproj file can be {', '.join(TYPES)}, not {wanted}.")
    if len(shape) < 2 or "position_embd" in name or not name.endswith(".weight"):
        return "F32"
    if "patch_embd" in name:
        return "F16" if wanted == "F16" else "F32"
    return fit_to_row(wanted, shape[-1])


def plan(checkpoint: Checkpoint, prefix: str, text_hidden: int) -> FilePlan:
    config = checkpoint.config["vision_config"]
    _check(checkpoint.config, config)
    tower, projector = f"{prefix}vision_tower.", f"{prefix}multi_modal_projector."
    scale = round(1 / float(checkpoint.config.get("downsample_ratio", 0.5)))
    keys = {**metadata.general(checkpoint, "mmproj", "clip"), **_fields(checkpoint, config, scale, text_hidden)}
    hidden = config["hidden_size"]
    tensors = _embeddings(checkpoint, config, f"{tower}embeddings.")
    for layer in range(config["num_hidden_layers"]):
        tensors += _layer(checkpoint, config, f"{tower}encoder.layer.{layer}.", f"v.blk.{layer}.")
    wide = hidden * scale * scale
    table: tuple[tuple[str, str, tuple[int, ...]], ...] = (
        ("layer_norm.weight", "mm.model.mlp.0.weight", (wide,)),
        ("layer_norm.bias", "mm.model.mlp.0.bias", (wide,)),
        ("linear_1.weight", "mm.model.mlp.1.weight", (text_hidden, wide)),
        ("linear_1.bias", "mm.model.mlp.1.bias", (text_hidden,)),
        ("linear_2.weight", "mm.model.mlp.3.weight", (text_hidden, text_hidden)),
        ("linear_2.bias", "mm.model.mlp.3.bias", (text_hidden,)),
    )
    tensors += [whole(checkpoint, projector + old, new, shape) for old, new, shape in table]
    return FilePlan(keys, tensors)


def _size(value: Any) -> int:
    """image_size and patch_size are a number or [height, width]."""
    sizes = value if isinstance(value, list | tuple) else [value, value]
    if len(set(sizes)) != 1 or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise UnsupportedArchitecture(f"An image or patch size of {value!r} cannot be converted; it must be square.")
    return int(sizes[0])


def _check(config: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
    """Settings that llama.cpp's graph takes for granted."""
    fixed = (
        (vision, "hidden_act", "gelu"),
        (vision, "use_mean_pooling", True),
        (config, "projector_hidden_act", "gelu"),
        (config, "vision_feature_layer", -1),
        (config, "vision_feature_select_strategy", "default"),
    )
    for place, key, value in fixed:
        if place.get(key, value) != value:
            raise UnsupportedArchitecture(f"{key} is {place[key]!r}; llama.cpp only computes {value!r}.")
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if not isinstance(vision.get(key), int) or vision[key] < 1:
            raise BrokenCheckpoint(f"config.json: vision_config.{key} is {vision.get(key)!r}; a count was expected.")
    norm = vision.get("norm_type", "layer_norm")
    shape = (vision["hidden_size"], vision["num_hidden_layers"])
    if norm != ("rms_norm" if shape == _RMS_TOWER else "layer_norm"):
        raise UnsupportedArchitecture(
            f"A vision tower of width {shape[0]} and {shape[1]} layers with {norm} cannot be converted: "
            f"llama.cpp computes RMSNorm for width {_RMS_TOWER[0]} with {_RMS_TOWER[1]} layers, LayerNorm otherwise."
        )
    ratio = float(config.get("downsample_ratio", 0.5))
    grid = _size(vision.get("image_size")) // _size(vision.get("patch_size"))
    if not 0 < ratio <= 1 or (1 / ratio) % 1 or grid % round(1 / ratio):
        raise UnsupportedArchitecture(f"A grid of {grid} patches cannot be shuffled with downsample_ratio {ratio}.")


def _fields(checkpoint: Checkpoint, config: Mapping[str, Any], scale: int, text_hidden: int) -> dict[str, Any]:
    processor = checkpoint.json("preprocessor_config.json")
    low, high = int(processor.get("min_patches", 1)), int(processor.get("max_patches", 12))
    return {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "internvl",
        "clip.use_gelu": True,
        "clip.vision.image_size": _size(config["image_size"]),
        "clip.vision.patch_size": _size(config["patch_size"]),
        "clip.vision.embedding_length": config["hidden_size"],
        "clip.vision.feed_forward_length": config["intermediate_size"],
        "clip.vision.block_count": config["num_hidden_layers"],
        "clip.vision.projection_dim": text_hidden,
        "clip.vision.attention.head_count": config["num_attention_heads"],
        "clip.vision.attention.layer_norm_epsilon": float(config.get("layer_norm_eps", 1e-6)),
        "clip.vision.image_mean": np.array(processor.get("image_mean", _MEAN), np.float32),
        "clip.vision.image_std": np.array(processor.get("image_std", _STD), np.float32),
        "clip.vision.projector.scale_factor": scale,
        "clip.vision.preproc_min_tiles": low,
        "clip.vision.preproc_max_tiles": high,
        "interns1.mmproj.cls_last": True,
        "interns1.vision.min_patches": low,
        "interns1.vision.max_patches": high,
        "interns1.vision.use_thumbnail": True,
        **video_fields(checkpoint),
    }


def video_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the checkpoint's processors settle about films: how many frames, and what stands before each."""
    settings = checkpoint.json("video_preprocessor_config.json")
    frames, rate = settings.get("num_frames"), settings.get("fps")
    fields: dict[str, Any] = {}
    if isinstance(frames, int) and not isinstance(frames, bool) and frames > 0:
        fields["interns1.video.num_frames"] = frames
    elif isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0:
        fields["interns1.video.fps"] = float(rate)
    prefix = _FRAME_PREFIX.search(checkpoint.text("processing_interns1.py") or "")
    if prefix:
        fields["interns1.video.frame_prefix"] = f"{prefix[1]}{{i}}{prefix[2]}"
    return fields


def _embeddings(checkpoint: Checkpoint, config: Mapping[str, Any], source: str) -> list[TensorPlan]:
    hidden, patch = config["hidden_size"], _size(config["patch_size"])
    channels = int(config.get("num_channels", 3))
    n_positions = (_size(config["image_size"]) // patch) ** 2 + 1
    kernel = (hidden, channels, patch, patch)
    return [
        whole(checkpoint, f"{source}cls_token", "v.class_embd", (hidden,), stored=(1, 1, hidden)),
        whole(checkpoint, f"{source}patch_embeddings.projection.weight", "v.patch_embd.weight", kernel),
        whole(checkpoint, f"{source}patch_embeddings.projection.bias", "v.patch_embd.bias", (hidden,)),
        rolled(checkpoint, f"{source}position_embeddings", "v.position_embd.weight", n_positions, hidden),
    ]


def _layer(checkpoint: Checkpoint, config: Mapping[str, Any], source: str, name: str) -> list[TensorPlan]:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    square, vector = (hidden, hidden), (hidden,)
    has_norm_bias = config.get("norm_type", "layer_norm") == "layer_norm"
    has_bias = bool(config.get("attention_bias", False)) or f"{source}attention.q_proj.bias" in checkpoint.tensors
    table: list[tuple[str, str, tuple[int, ...], bool]] = [
        *((f"attention.{part}_proj.weight", f"attn_{part}.weight", square, True) for part in "qkv"),
        *((f"attention.{part}_proj.bias", f"attn_{part}.bias", vector, has_bias) for part in "qkv"),
        *(
            (f"attention.{part}_norm.weight", f"attn_{part}_norm.weight", vector, bool(config.get("use_qk_norm")))
            for part in "qk"
        ),
        ("attention.projection_layer.weight", "attn_out.weight", square, True),
        ("attention.projection_layer.bias", "attn_out.bias", vector, True),
        ("layernorm_before.weight", "ln1.weight", vector, True),
        ("layernorm_before.bias", "ln1.bias", vector, has_norm_bias),
        ("layernorm_after.weight", "ln2.weight", vector, True),
        ("layernorm_after.bias", "ln2.bias", vector, has_norm_bias),
        ("lambda_1", "ls1.weight", vector, True),
        ("lambda_2", "ls2.weight", vector, True),
        ("mlp.fc1.weight", "ffn_up.weight", (width, hidden), True),
        ("mlp.fc1.bias", "ffn_up.bias", (width,), True),
        ("mlp.fc2.weight", "ffn_down.weight", (hidden, width), True),
        ("mlp.fc2.bias", "ffn_down.bias", vector, True),
    ]
    return [whole(checkpoint, source + old, name + new, shape) for old, new, shape, present in table if present]
