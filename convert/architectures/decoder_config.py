"""The keys of a config.json that every text model here has, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from convert import rope
from convert.architectures.settings import count, refuse_unknown, rope_settings


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What the families share; each adds its own fields and checks."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Mapping[str, Any]
    tie_word_embeddings: bool

    @classmethod
    def read(
        cls, config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], *, rms_norm_eps: float, **own: int
    ) -> Self:
        """The config with the family's `own` fields.

        Args:
            fixed: the settings that llama.cpp computes in one way only, with their allowed values.
            rms_norm_eps: the family's default.
        """
        refuse_unknown(config, fixed)
        settings = rope_settings(config)
        hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
        return cls(
            hidden_size=hidden,
            num_hidden_layers=count(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=count(config, "num_key_value_heads", heads),
            head_dim=count(config, "head_dim", hidden // heads),
            intermediate_size=count(config, "intermediate_size"),
            vocab_size=count(config, "vocab_size"),
            max_position_embeddings=count(config, "max_position_embeddings"),
            rms_norm_eps=float(config.get("rms_norm_eps", rms_norm_eps)),
            rope_theta=float(config.get("rope_theta") or settings.get("rope_theta") or 10000.0),
            rope_scaling=settings,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            **own,
        )

    def keys(self, a: str) -> dict[str, Any]:
        """What every text model of the GGUF architecture `a` says of itself."""
        return {
            f"{a}.block_count": self.num_hidden_layers,
            f"{a}.context_length": self.max_position_embeddings,
            f"{a}.embedding_length": self.hidden_size,
            f"{a}.feed_forward_length": self.intermediate_size,
            f"{a}.attention.head_count": self.num_attention_heads,
            f"{a}.attention.head_count_kv": self.num_key_value_heads,
            f"{a}.attention.key_length": self.head_dim,
            f"{a}.attention.value_length": self.head_dim,
            f"{a}.attention.layer_norm_rms_epsilon": self.rms_norm_eps,
            f"{a}.vocab_size": self.vocab_size,
            **rope.keys(self.rope_scaling, a, self.rope_theta, self.max_position_embeddings),
        }
