"""The shapes of Intern-S1 and its relatives, so that memory can be planned before anything is downloaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from interns1_local.runners.model_shape import ModelShape, VisionShape, row_bytes, shape_of
from quant.recipes import ModelFacts, choose_types, recipe

Tensor = tuple[str, tuple[int, ...], str, int]


@dataclass(frozen=True, slots=True)
class TextShape:
    """A Qwen3 or, with experts, a Qwen3-MoE of these sizes; `head_width` values a head."""

    width: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    vocabulary: int
    context_length: int
    ff_width: int = 0
    n_experts: int = 0
    n_experts_used: int = 0
    expert_width: int = 0
    has_head_norms: bool = True

    @property
    def architecture(self) -> str:
        if self.n_experts:
            return "qwen3moe"
        return "qwen3" if self.has_head_norms else "llama"

    def metadata(self) -> dict[str, Any]:
        """As a GGUF file has it, without a vocabulary."""
        values: dict[str, Any] = {
            "context_length": self.context_length,
            "embedding_length": self.width,
            "block_count": self.n_layers,
            "feed_forward_length": self.ff_width or 3 * self.width,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
            "attention.key_length": self.head_width,
            "attention.value_length": self.head_width,
            "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 1e6,
        }
        if self.n_experts:
            values |= {
                "expert_count": self.n_experts,
                "expert_used_count": self.n_experts_used,
                "expert_feed_forward_length": self.expert_width,
            }
        named = {f"{self.architecture}.{key}": value for key, value in values.items()}
        return {"general.architecture": self.architecture, **named}

    def tensors(self, type: str) -> list[Tensor]:
        """(name, shape outermost first, type, bytes) of each tensor under the recipe `type`."""
        named = self._named()
        facts = ModelFacts(
            self.architecture, self.n_layers, self.n_experts, self.n_heads, self.n_kv_heads, has_imatrix=True
        )
        types = choose_types(named, recipe(type), facts)
        typed = [(name, shape, kind or "F32") for (name, shape), kind in zip(named, types, strict=True)]
        return [(name, shape, kind, _bytes(shape, kind)) for name, shape, kind in typed]

    def _named(self) -> list[tuple[str, tuple[int, ...]]]:
        width, queries, keys = self.width, self.n_heads * self.head_width, self.n_kv_heads * self.head_width
        named: list[tuple[str, tuple[int, ...]]] = [
            ("token_embd.weight", (self.vocabulary, width)),
            ("output_norm.weight", (width,)),
            ("output.weight", (self.vocabulary, width)),
        ]
        for layer in range(self.n_layers):
            parts: dict[str, tuple[int, ...]] = {
                "attn_norm": (width,), "attn_q": (queries, width), "attn_k": (keys, width), "attn_v": (keys, width),
                "attn_output": (width, queries), "ffn_norm": (width,),
            }  # fmt: skip
            if self.has_head_norms:
                parts |= {"attn_q_norm": (self.head_width,), "attn_k_norm": (self.head_width,)}
            if self.n_experts:
                inner, count = self.expert_width, self.n_experts
                parts |= {
                    "ffn_gate_inp": (count, width), "ffn_gate_exps": (count, inner, width),
                    "ffn_up_exps": (count, inner, width), "ffn_down_exps": (count, width, inner),
                }  # fmt: skip
            else:
                wide = self.ff_width
                parts |= {"ffn_gate": (wide, width), "ffn_up": (wide, width), "ffn_down": (width, wide)}
            named += [(f"blk.{layer}.{part}.weight", shape) for part, shape in parts.items()]
        return named


@dataclass(frozen=True, slots=True)
class VisionTower:
    """A vision tower with its projector to `projected` values."""

    width: int
    n_layers: int
    n_heads: int
    ff_width: int
    projected: int
    n_positions: int = 1025

    def shape(self, type: str) -> VisionShape:
        """Bytes with all matrices of `type` (F16 or Q8_0)."""
        joined = 4 * self.width
        values = self.n_layers * (4 * self.width**2 + 2 * self.width * self.ff_width)
        values += joined * self.projected + self.projected**2
        small = 4 * (self.n_positions * self.width + self.n_layers * 16 * self.width + 2 * self.projected)
        patches = 2 * 3 * 14 * 14 * self.width
        n_bytes = row_bytes(type, values) + small + patches
        return VisionShape(n_bytes, self.width, self.ff_width, self.n_heads, self.n_positions)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published model: its text model, and its vision tower by type of its vision file."""

    name: str
    title: str
    text: TextShape
    vision: VisionTower | None = None

    def shape(self, type: str, vision_type: str = "F16") -> ModelShape:
        """Its memory's shape under the recipe `type`."""
        tower = None if self.vision is None else self.vision.shape(vision_type)
        return shape_of(self.text.metadata(), self.text.tensors(type), tower)


KNOWN = {
    model.name: model
    for model in (
        KnownModel(
            "intern-s1",
            "Intern-S1 (241B)",
            TextShape(4096, 94, 64, 4, 128, 153216, 40960, n_experts=128, n_experts_used=8, expert_width=1536),
            VisionTower(3200, 45, 25, 12800, 4096),
        ),
        KnownModel(
            "intern-s1-mini",
            "Intern-S1-mini (8B)",
            TextShape(4096, 36, 32, 8, 128, 153216, 40960, ff_width=12288),
            VisionTower(1024, 24, 16, 4096, 4096),
        ),
        KnownModel(
            "internlm3-8b",
            "InternLM3-8B",
            TextShape(4096, 48, 32, 2, 128, 128512, 32768, ff_width=10240, has_head_norms=False),
        ),
    )
}


def known_model(name: str) -> KnownModel | None:
    """By a name as people write it: `Intern-S1`, `internlm/intern-s1`, `intern_s1_mini`."""
    plain = name.lower().rpartition("/")[2].replace("_", "-").removesuffix("-fp8")
    aliases = {"interns1": "intern-s1", "interns1-mini": "intern-s1-mini", "internlm3-8b-instruct": "internlm3-8b"}
    return KNOWN.get(aliases.get(plain, plain))


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    return math.prod(shape[:-1]) * row_bytes(kind, shape[-1])
