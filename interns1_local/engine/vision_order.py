"""Which row of a vision tower's position table llama.cpp adds to the first patch: asked of the library itself.

Builds up to now append the class token after the patches ("cls_last"), while checkpoints have its row first. Should a
later build put it first ("cls_first"), a file made for the old order would be wrong, so the build in use is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from interns1_local.engine.llama import EngineError, Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.native import binding_version, mtmd_cpp
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.errors import LoadError
from quant.errors import QuantError
from quant.gguf_output import TensorSpec, create

Order = Literal["cls_last", "cls_first"]
Floats = npt.NDArray[np.float32]

ORDERS: tuple[Order, ...] = ("cls_last", "cls_first")
CACHE_FILE = "vision_order.json"

# Two by two patches, which the projector joins into one place of 4 x _WIDTH values.
_PATCH, _SIDE, _WIDTH = 14, 2, 8
_N_PATCHES = _SIDE * _SIDE
_ROW_OF_ORDER = {"cls_last": 0, "cls_first": 1}


def build_order(cache_folder: Path) -> Order:
    """The order of the installed build, measured once and remembered in `cache_folder`, if that can be written."""
    path, stamp = cache_folder / CACHE_FILE, build_stamp()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        known = json.loads(path.read_text(encoding="utf-8")).get(stamp)
        if known in ORDERS:
            return cast(Order, known)
    order = measure_order()
    with contextlib.suppress(OSError):
        _remember(path, {stamp: order})
    return order


def build_stamp() -> str:
    """Changes when another llama.cpp is installed."""
    library = Path(str(mtmd_cpp._libmtmd._name))
    with contextlib.suppress(OSError):
        status = library.stat()
        return f"{binding_version()} {library} {status.st_size} {status.st_mtime_ns}"
    return f"{binding_version()} {library}"


def measure_order() -> Order:
    """Computes one tile with a tower that shows, for each patch, which position it was given."""
    try:
        with tempfile.TemporaryDirectory(prefix="interns1-") as folder:
            text, vision = Path(folder) / "text.gguf", Path(folder) / "vision.gguf"
            _write_text_model(text)
            _write_tower(vision)
            return _order_of(_embedding(text, vision))
    except (OSError, EngineError, QuantError) as error:
        raise LoadError(f"llama.cpp's vision could not be tested: {error}; pictures cannot be used") from error


def _embedding(text: Path, vision: Path) -> Floats:
    model = Model(text, ON_CPU)
    try:
        encoder = VisionEncoder(vision, model, n_threads=1, use_gpu=False)
        try:
            size = _SIDE * _PATCH
            embeddings = encoder.encode(Tile.of(np.zeros((size, size, 3), np.uint8), encoder.n_tokens(size)))
            return embeddings.reshape(-1)
        finally:
            encoder.close()
    finally:
        model.close()


def _order_of(values: Floats) -> Order:
    """Row r of the table is 1 in column r only; the patches' columns come one patch after the other."""
    rows = [int(patch.argmax()) for patch in values[: _N_PATCHES * _WIDTH].reshape(_N_PATCHES, _WIDTH)]
    for order in ORDERS:
        first = _ROW_OF_ORDER[order]
        if sorted(rows) == list(range(first, first + _N_PATCHES)) and rows[0] == first:
            return order
    raise LoadError(
        f"this build of llama.cpp gives four patches the positions {rows}, an order that this version does not know; "
        f"install the llama-cpp-python that this project asks for"
    )


def _write_tower(path: Path) -> None:
    """One block that adds nothing, patches without content, and a projector that copies."""
    joined = _N_PATCHES * _WIDTH
    positions = np.zeros((_N_PATCHES + 1, _WIDTH), np.float32)
    positions[np.arange(_N_PATCHES + 1), np.arange(_N_PATCHES + 1)] = 1
    square = np.zeros((_WIDTH, _WIDTH), np.float32)
    vector, ones = np.zeros(_WIDTH, np.float32), np.ones(_WIDTH, np.float32)
    tensors = {
        "v.class_embd": vector,
        "v.patch_embd.weight": np.zeros((_WIDTH, 3, _PATCH, _PATCH), np.float32),
        "v.patch_embd.bias": vector,
        "v.position_embd.weight": positions,
        **{f"v.blk.0.attn_{part}.weight": square for part in ("q", "k", "v", "out")},
        **{f"v.blk.0.attn_{part}.bias": vector for part in ("q", "k", "v", "out")},
        **{f"v.blk.0.{name}.weight": ones for name in ("ln1", "ln2")},
        **{f"v.blk.0.{name}.bias": vector for name in ("ln1", "ln2")},
        **{f"v.blk.0.{name}.weight": vector for name in ("ls1", "ls2")},
        **{f"v.blk.0.ffn_{part}.weight": square for part in ("up", "down")},
        **{f"v.blk.0.ffn_{part}.bias": vector for part in ("up", "down")},
        "mm.model.mlp.0.weight": np.ones(joined, np.float32),
        "mm.model.mlp.0.bias": np.zeros(joined, np.float32),
        "mm.model.mlp.1.weight": np.eye(joined, dtype=np.float32),
        "mm.model.mlp.1.bias": np.zeros(joined, np.float32),
        "mm.model.mlp.3.weight": np.eye(joined, dtype=np.float32),
        "mm.model.mlp.3.bias": np.zeros(joined, np.float32),
    }
    fields = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": "internvl",
        "clip.use_gelu": True,
        "clip.vision.image_size": _SIDE * _PATCH,
        "clip.vision.patch_size": _PATCH,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": _WIDTH,
        "clip.vision.block_count": 1,
        "clip.vision.projection_dim": joined,
        "clip.vision.attention.head_count": 1,
        "clip.vision.attention.layer_norm_epsilon": 1e-6,
        "clip.vision.image_mean": np.full(3, 0.5, np.float32),
        "clip.vision.image_std": np.full(3, 0.5, np.float32),
        "clip.vision.projector.scale_factor": 2,
    }
    _write(path, fields, tensors)


def _write_text_model(path: Path) -> None:
    """The smallest text model whose embeddings are as wide as the tower's; nothing is computed with it."""
    width = _N_PATCHES * _WIDTH
    tokens = ["<|end|>", *"<img>/"]  # llama.cpp spells the marks around a picture with them
    square = np.zeros((width, width), np.float32)
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors: dict[str, Floats] = {"token_embd.weight": np.zeros((len(tokens), width), np.float32)}
    tensors |= {f"{name}.weight": np.ones(width, np.float32) for name in norms}
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        tensors[f"blk.0.{part}.weight"] = square
    fields = {
        "general.architecture": "llama",
        "llama.context_length": 32,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": width,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["i m"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
    }
    _write(path, fields, tensors)


def _write(path: Path, fields: dict[str, Any], tensors: dict[str, Floats]) -> None:
    specs = [TensorSpec(name, values.shape, "F32") for name, values in tensors.items()]
    with create(path, fields, specs) as output:
        for name, values in tensors.items():
            output.write(name, 0, np.ascontiguousarray(values).tobytes())


def _remember(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)
