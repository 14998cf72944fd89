"""What a model's memory depends on: the sizes of its weights by layer, its widths, its vision tower. Pure data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from interns1_local.runners.model_spec import ModelFacts
from quant.ggml_types import ggml_type

_LAYER = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"\.ffn_(up|down|gate)_exps")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
INPUT = -1
# See engine/pooling: tokens of a call where a token sees what came before it, and where it sees all of its text.
POOLED_AT_ONCE, POOLED_WHOLE = 256, 8192
CAUSAL = frozenset({"qwen3", "qwen3moe", "qwen2", "qwen2moe", "llama", "internlm2"})


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor. `layer` is INPUT for the embeddings, and the number of layers for what follows the last one."""

    name: str
    layer: int
    n_bytes: int
    type: str = "F32"
    rows: int = 1
    is_expert: bool = False
    is_matrix: bool = True


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A vision tower: bytes of its file's tensors, its widths, and the places of one tile."""

    n_bytes: int
    width: int
    ff_width: int
    n_heads: int
    n_positions: int


@dataclass(frozen=True)
class ModelShape:
    """`kv_widths` are values of K and of V for one token, by layer."""

    architecture: str
    n_layers: int
    width: int
    n_heads: int
    query_width: int
    ff_width: int
    vocabulary: int
    context_length: int
    kv_widths: tuple[tuple[int, int], ...]
    weights: tuple[Weight, ...]
    n_experts_used: int = 0
    expert_width: int = 0
    vision: VisionShape | None = None
    adapter_bytes: int = 0
    # A smaller model that guesses ahead.
    draft: ModelShape | None = None
    # Of a model that makes embeddings or scores: tokens of one call; 0 for others.
    pooled_at_once: int = 0

    @cached_property
    def has_experts(self) -> bool:
        return any(weight.is_expert for weight in self.weights)

    @cached_property
    def is_exact(self) -> bool:
        """Whether no matrix is rounded: then what is computed depends on the order of additions only."""
        return all(weight.type == "F32" for weight in self.weights if weight.is_matrix)

    @cached_property
    def weight_bytes(self) -> int:
        return sum(weight.n_bytes for weight in self.weights)

    @cached_property
    def by_layer(self) -> dict[int, tuple[Weight, ...]]:
        """The weights of INPUT, of each layer, and of the output."""
        found: dict[int, list[Weight]] = {layer: [] for layer in range(INPUT, self.n_layers + 1)}
        for weight in self.weights:
            found[weight.layer].append(weight)
        return {layer: tuple(weights) for layer, weights in found.items()}

    @classmethod
    def of(cls, facts: ModelFacts, mmproj_bytes: int = 0, adapter_bytes: int = 0) -> ModelShape:
        """Of a model's files."""
        named = [(tensor.name, tensor.shape, tensor.type, tensor.n_bytes) for tensor in facts.tensors]
        vision = vision_shape(facts.mmproj_metadata, mmproj_bytes) if mmproj_bytes else None
        shape = shape_of(facts.metadata, named, vision, adapter_bytes)
        pools = {"embedding", "score"} & {*facts.capabilities}
        return replace(shape, pooled_at_once=_pooled_at_once(facts) if pools else 0)


def _pooled_at_once(facts: ModelFacts) -> int:
    looks_ahead = facts.metadata.get(f"{facts.architecture}.attention.causal") is False
    return POOLED_WHOLE if looks_ahead or facts.architecture not in CAUSAL else POOLED_AT_ONCE


def shape_of(
    values: Mapping[str, Any],
    tensors: Sequence[tuple[str, Sequence[int], str, int]],
    vision: VisionShape | None = None,
    adapter_bytes: int = 0,
) -> ModelShape:
    """Of metadata and of tensors: name, shape (outermost first), type, bytes."""
    architecture = str(values.get("general.architecture", ""))

    def read(key: str, default: int) -> Any:
        return values.get(f"{architecture}.{key}", default)

    n_layers, width = int(read("block_count", 0)), int(read("embedding_length", 0))
    heads = _largest(read("attention.head_count", 1)) or 1
    kv_heads = _by_layer(read("attention.head_count_kv", heads), n_layers)
    head_width = width // heads
    key, value = int(read("attention.key_length", head_width)), int(read("attention.value_length", head_width))
    tokens = values.get("tokenizer.ggml.tokens")
    embedding = next((shape for name, shape, *_ in tensors if name == _EMBEDDING), (0,))
    return ModelShape(
        architecture=architecture,
        n_layers=n_layers,
        width=width,
        n_heads=heads,
        query_width=heads * key,
        ff_width=_largest(read("feed_forward_length", 0)),
        vocabulary=len(tokens) if tokens else int(embedding[0]),
        context_length=int(read("context_length", 0)),
        kv_widths=tuple((count * key, count * value) for count in kv_heads),
        weights=tuple(_weights(tensors, n_layers)),
        n_experts_used=int(read("expert_used_count", 0)),
        expert_width=int(read("expert_feed_forward_length", 0)),
        vision=vision,
        adapter_bytes=adapter_bytes,
    )


def vision_shape(values: Mapping[str, Any], n_bytes: int) -> VisionShape:
    """Of a vision file's metadata."""

    def read(key: str, default: int) -> int:
        return int(values.get(f"clip.vision.{key}", default))

    side = read("image_size", 448) // max(1, read("patch_size", 14))
    width = read("embedding_length", 0)
    heads = read("attention.head_count", 1)
    return VisionShape(n_bytes, width, read("feed_forward_length", 4 * width), heads, side * side + 1)


def _weights(tensors: Sequence[tuple[str, Sequence[int], str, int]], n_layers: int) -> list[Weight]:
    found = []
    tied = None
    for name, shape, kind, n_bytes in tensors:
        at = _LAYER.match(name)
        layer = min(int(at.group(1)), n_layers) if at else INPUT if name == _EMBEDDING else n_layers
        rows = int(shape[-2]) if len(shape) > 1 else 1
        weight = Weight(name, layer, n_bytes, kind, rows, bool(_EXPERTS.search(name)), len(shape) > 1)
        found.append(weight)
        tied = weight if name == _EMBEDDING else tied
    if tied is not None and not any(weight.name == _OUTPUT for weight in found):
        # One matrix in two roles: read row by row here, multiplied with there.
        found.append(Weight(f"{_EMBEDDING} (output)", n_layers, tied.n_bytes, tied.type, tied.rows))
    return found


def row_bytes(kind: str, values: int) -> int:
    """Bytes of `values` values in the type `kind`; what is no whole block takes one."""
    entry = ggml_type(kind)
    return -(-values // entry.block_size) * entry.block_bytes


def _largest(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else max((int(entry) for entry in value), default=0)


def _by_layer(value: Any, n_layers: int) -> list[int]:
    if isinstance(value, int | float):
        return [int(value)] * n_layers
    listed = [int(entry) for entry in value][:n_layers]
    return listed + [0] * (n_layers - len(listed))
