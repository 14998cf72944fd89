"""Models of any shape: as the planner sees them, and as sparse files of zeros that llama.cpp loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interns1_local.runners.known_shapes import TextShape, VisionTower
from quant.gguf_output import TensorSpec, layout


def write_sparse(path: Path, shape: TextShape, type: str = "Q4_K_M") -> Path:
    """A GGUF file of this shape that takes no room on the disk, with a vocabulary of made-up words."""
    tokens = ["<|end|>", "!", "<img>", "</img>", "<IMG_CONTEXT>"]
    tokens += [f"t{number}" for number in range(shape.vocabulary - len(tokens))]
    fields = {
        **shape.metadata(),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["i m"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
        **{f"interns1.image.{name}_token_id": number for number, name in enumerate(("start", "end", "context"), 2)},
    }
    return _write_zeros(path, fields, [TensorSpec(name, size, kind) for name, size, kind, _ in shape.tensors(type)])


def write_sparse_tower(path: Path, tower: VisionTower) -> Path:
    """A vision file of this shape in 16 bits, all zeros."""
    width, wide, joined = tower.width, tower.ff_width, 4 * tower.width
    sizes = {
        "image_size": 448, "patch_size": 14, "embedding_length": width, "feed_forward_length": wide,
        "block_count": tower.n_layers, "projection_dim": tower.projected, "attention.head_count": tower.n_heads,
        "projector.scale_factor": 2, "preproc_min_tiles": 1, "preproc_max_tiles": 12,
    }  # fmt: skip
    fields = {
        "general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": "internvl",
        "clip.use_gelu": True, **{f"clip.vision.{key}": value for key, value in sizes.items()},
        "clip.vision.attention.layer_norm_epsilon": 1e-6, "clip.vision.image_mean": [0.5] * 3,
        "clip.vision.image_std": [0.5] * 3,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "v.class_embd": (width,), "v.position_embd.weight": (tower.n_positions, width), "v.patch_embd.bias": (width,),
        "v.patch_embd.weight": (width, 3, 14, 14), "mm.model.mlp.0.weight": (joined,), "mm.model.mlp.0.bias": (joined,),
        "mm.model.mlp.1.weight": (tower.projected, joined), "mm.model.mlp.1.bias": (tower.projected,),
        "mm.model.mlp.3.weight": (tower.projected, tower.projected), "mm.model.mlp.3.bias": (tower.projected,),
    }  # fmt: skip
    for layer in range(tower.n_layers):
        matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (width, width))
        matrices |= {"ffn_up": (wide, width), "ffn_down": (width, wide)}
        for part, size in matrices.items():
            shapes |= {f"v.blk.{layer}.{part}.weight": size, f"v.blk.{layer}.{part}.bias": size[:1]}
        for part in ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ls1.weight", "ls2.weight"):
            shapes[f"v.blk.{layer}.{part}"] = (width,)
    kinds = {name: "F16" if len(size) > 1 and "position" not in name else "F32" for name, size in shapes.items()}
    return _write_zeros(path, fields, [TensorSpec(name, size, kinds[name]) for name, size in shapes.items()])


def _write_zeros(path: Path, fields: dict[str, Any], specs: list[TensorSpec]) -> Path:
    header, infos = layout(fields, specs)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(infos[-1].offset + infos[-1].n_bytes)
    return path


SMALL = TextShape(512, 4, 8, 2, 64, 2000, 262144, ff_width=1536)
WIDE = TextShape(256, 2, 4, 4, 64, 1024, 262144, ff_width=4096)
EXPERTS = TextShape(512, 4, 8, 2, 64, 32000, 262144, n_experts=16, n_experts_used=4, expert_width=256)
MANY_WORDS = TextShape(256, 2, 4, 2, 64, 60000, 262144, ff_width=512)
