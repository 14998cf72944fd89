"""What the InternLM families share with Llama: config, metadata keys and tensor shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from convert import metadata, vocab_sentencepiece
from convert.architectures.decoder_config import DecoderConfig
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
class Config(DecoderConfig):
    """The keys of a config.json that matter here."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        made = cls.read(config, _FIXED, rms_norm_eps=1e-5)
        heads, pairs = made.num_attention_heads, made.num_key_value_heads
        if heads % pairs or made.head_dim % 2:
            raise BrokenCheckpoint(f"config.json: {heads} heads of {made.head_dim} do not fit {pairs} key-value heads.")
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
        **config.keys(a),
        f"{a}.rope.dimension_count": config.head_dim,
        **vocab_sentencepiece.fields(vocab_sentencepiece.read_vocabulary(checkpoint), config.vocab_size),
        **metadata.chat_template(checkpoint),
    }
