"""What the InternLM families share with Llama: config, metadata keys and tensor shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from convert import metadata, rope, vocab_sentencepiece
from convert.architectures.settings import count, refuse_unknown, rope_settings
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from convert.plan import Shape
from quant.recipes import ModelFacts

_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "bias": (False,),
    "qkv_bias": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}


@dataclass(frozen=True, slots=True)
class Config:
    """The keys of a config.json that matter here."""

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
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        refuse_unknown(config, _FIXED)
        settings = rope_settings(config)
        heads = count(config, "num_attention_heads")
        made = cls(
            hidden_size=count(config, "hidden_size"),
            num_hidden_layers=count(config, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=count(config, "num_key_value_heads", heads),
            head_dim=count(config, "head_dim", count(config, "hidden_size") // heads),
            intermediate_size=count(config, "intermediate_size"),
            vocab_size=count(config, "vocab_size"),
            max_position_embeddings=count(config, "max_position_embeddings"),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-5)),
            rope_theta=float(config.get("rope_theta") or settings.get("rope_theta") or 10000.0),
            rope_scaling=settings,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
        if heads % made.num_key_value_heads or made.head_dim % 2:
            raise BrokenCheckpoint(
                f"config.json: {heads} heads of {made.head_dim} do not fit {made.num_key_value_heads} key-value heads."
            )
        return made

    @property
    def heads_per_kv(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    def facts(self, architecture: str) -> ModelFacts:
        return ModelFacts(architecture, self.num_hidden_layers, 0, self.num_attention_heads, self.num_key_value_heads)

    def vectors_and_matrices(self) -> dict[str, Shape]:
        """The shapes of what is copied as it is, by the name in a GGUF layer."""
        hidden, width = self.hidden_size, self.intermediate_size
        return {
            "attn_norm": (hidden,),
            "attn_output": (hidden, self.num_attention_heads * self.head_dim),
            "ffn_norm": (hidden,),
            "ffn_gate": (width, hidden),
            "ffn_up": (width, hidden),
            "ffn_down": (hidden, width),
        }


def fields(checkpoint: Checkpoint, config: Config, a: str) -> dict[str, Any]:
    """All keys of a text model of the GGUF architecture `a`."""
    return {
        **metadata.general(checkpoint, "model", a),
        **metadata.sampling(checkpoint),
        f"{a}.block_count": config.num_hidden_layers,
        f"{a}.context_length": config.max_position_embeddings,
        f"{a}.embedding_length": config.hidden_size,
        f"{a}.feed_forward_length": config.intermediate_size,
        f"{a}.attention.head_count": config.num_attention_heads,
        f"{a}.attention.head_count_kv": config.num_key_value_heads,
        f"{a}.attention.key_length": config.head_dim,
        f"{a}.attention.value_length": config.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{a}.rope.dimension_count": config.head_dim,
        f"{a}.rope.freq_base": config.rope_theta,
        f"{a}.vocab_size": config.vocab_size,
        **rope.scaling(config.rope_scaling, a),
        **vocab_sentencepiece.fields(vocab_sentencepiece.read_vocabulary(checkpoint), config.vocab_size),
        **metadata.chat_template(checkpoint),
    }
