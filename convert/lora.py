"""A PEFT LoRA -> GGUF, for the model that it is to change. Names and heads go as those of the model's conversion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convert.architectures import internlm2, internlm3, qwen3
from convert.checkpoint import Checkpoint, Rows
from convert.errors import BrokenCheckpoint, UnsupportedArchitecture
from convert.plan import paired_rows
from quant.gguf_file import GGUFMetadata
from quant.gguf_output import TensorSpec, create

CONFIG = "adapter_config.json"

_PARTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
# GGUF architecture -> tables of (GGUF name in a layer -> checkpoint's name in a layer).
_TABLES: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "qwen3": (qwen3.ATTENTION, qwen3.DENSE),
    "qwen3moe": (qwen3.ATTENTION, qwen3.ROUTER),
    "internlm2": (internlm2.COPIED,),
    "llama": (internlm2.COPIED, internlm3.COPIED, {f"attn_{part}": old for part, old in _PARTS.items()}),
}
_PAIRED = {"llama": ("attn_q", "attn_k")}
_TENSOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?")
_LAYER = re.compile(r"(?:model\.|model\.language_model\.|language_model\.model\.|language_model\.)layers\.(\d+)\.(.+)")
_ENDS = {
    "embed_tokens": "token_embd.weight",
    "tok_embeddings": "token_embd.weight",
    "lm_head": "output.weight",
    "output": "output.weight",
}
# Settings of PEFT that change what is computed, and the only values that a GGUF LoRA can express.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    # Others (pissa, olora, corda, loftq) change the base weights when training begins.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "use_qalora": (False, None),
    "layer_replication": ([], None),
    "fan_in_fan_out": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "trainable_token_indices": ([], {}, None),
    "target_parameters": ([], None),
    "alora_invocation_tokens": ([], None),
}


def convert_lora(folder: Path, weights: str, base: GGUFMetadata, output: Path) -> None:
    """Write the adapter in `folder` (its config and the file `weights`) for the model `base`, in F32."""
    with Checkpoint(folder, CONFIG, weights) as source:
        alpha = _alpha(source.config)
        tensors: dict[str, Rows] = {}
        for name in source.tensors:
            new, values = _converted(source, name, base)
            if new in tensors:
                raise BrokenCheckpoint(f"Two tensors of the adapter become {new}; the second is {name}.")
            tensors[new] = values
    fields = {
        "general.architecture": base.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    specs = [TensorSpec(name, values.shape, "F32") for name, values in tensors.items()]
    with create(output, fields, specs) as file:
        for name, values in tensors.items():
            file.write(name, 0, np.ascontiguousarray(values, "<f4").tobytes())


def _alpha(config: Mapping[str, Any]) -> float:
    """What llama.cpp is to divide by the rank."""
    if not isinstance(config, dict):
        raise BrokenCheckpoint(f"{CONFIG} is not an object.")
    for key, known in _FIXED.items():
        if config.get(key) not in known:
            raise UnsupportedArchitecture(
                f"{CONFIG} has {key} {config.get(key)!r}; only {known[0]!r} can be converted. Merge the adapter into "
                "the checkpoint (PEFT: merge_and_unload) and convert that."
            )
    alpha, rank = config.get("lora_alpha"), config.get("r")
    for key, value in (("lora_alpha", alpha), ("r", rank)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
            raise BrokenCheckpoint(f"{CONFIG} has {key} {value!r}; a number above 0 was expected.")
    assert alpha is not None and rank is not None
    if not config.get("use_rslora"):
        return float(alpha)
    if config.get("rank_pattern"):
        raise UnsupportedArchitecture(f"{CONFIG} has use_rslora and rank_pattern; only one of them can be converted.")
    return float(alpha) * math.sqrt(rank)


def _converted(source: Checkpoint, name: str, base: GGUFMetadata) -> tuple[str, Rows]:
    found = _TENSOR.fullmatch(name)
    if found is None:
        raise UnsupportedArchitecture(f"The adapter's tensor {name} is not part of a LoRA (lora_A, lora_B).")
    module, embedding, half = found.groups()
    entry = source.entry(name)
    if len(entry.shape) != 2:
        raise BrokenCheckpoint(f"The adapter's tensor {name} has shape {list(entry.shape)}; a matrix was expected.")
    values = source.read_rows(entry, 0, entry.shape[0])
    target = _target(module, base.architecture)
    if embedding and half == "A":
        values = values.T
    part = target.split(".")[-2]
    if half == "B" and part in _PAIRED.get(base.architecture, ()):
        values = _paired(values, _head_count(base, part), name)
    return f"{target}.lora_{half.lower()}", values


def _target(module: str, architecture: str) -> str:
    """The GGUF name of the matrix that the module holds."""
    layer = _LAYER.fullmatch(module)
    if layer is None:
        end = _ENDS.get(module.rsplit(".", 1)[-1])
        if end is None or "vision" in module:
            raise UnsupportedArchitecture(
                f"The adapter changes {module}; only the text model's matrices can be adapted."
            )
        return end
    number, inner = layer.groups()
    if inner == "attention.wqkv" or inner.startswith("mlp.experts"):
        raise UnsupportedArchitecture(
            f"The adapter changes {inner}, which GGUF holds in another form; such an adapter cannot be converted. "
            "Merge it into the checkpoint (PEFT: merge_and_unload) and convert that."
        )
    for table in _TABLES.get(architecture, ()):
        for new, old in table.items():
            if old == inner:
                return f"blk.{int(number)}.{new}.weight"
    raise UnsupportedArchitecture(f"The adapter changes {module}, which a model of {architecture} does not have.")


def _head_count(base: GGUFMetadata, part: str) -> int:
    key = f"{base.architecture}.attention.head_count"
    found = base.fields.get(f"{key}_kv", base.fields.get(key)) if part == "attn_k" else base.fields.get(key)
    if not isinstance(found, int) or found < 1:
        raise UnsupportedArchitecture(f"The model's {key} is {found!r}; one number for all layers was expected.")
    return found


def _paired(values: Rows, n_heads: int, name: str) -> Rows:
    if len(values) % (2 * n_heads):
        raise BrokenCheckpoint(f"The adapter's tensor {name} has {len(values)} rows, which are not {n_heads} heads.")
    return paired_rows(values, n_heads)
