"""Qwen3 text models, dense and mixture of experts: alone, or inside Intern-S1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from convert import metadata, vocab_bpe
from convert.architectures.decoder_config import DecoderConfig
from convert.architectures.settings import count
from convert.checkpoint import Checkpoint
from convert.errors import UnsupportedArchitecture
from convert.plan import FilePlan, TensorPlan, packed, stacked, whole
from quant.recipes import ModelFacts

# Settings with a fixed meaning in llama.cpp; another value would be computed wrongly without a word.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "use_sliding_window": (False,),
}
_FIXED_IN_MOE: Mapping[str, tuple[Any, ...]] = {
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
    "norm_topk_prob": (True,),
}


# GGUF name in a layer -> name in the checkpoint's layer.
ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
DENSE = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROUTER = {"ffn_gate_inp": "mlp.gate"}


@dataclass(frozen=True, slots=True)
class Config(DecoderConfig):
    """The keys of a Qwen3 config.json that matter here; a dense model has no experts."""

    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        if not _is_moe(config):
            return cls.read(config, _FIXED, rms_norm_eps=1e-6)
        experts = {key: count(config, key) for key in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
        return cls.read(config, {**_FIXED, **_FIXED_IN_MOE}, rms_norm_eps=1e-6, **experts)

    @property
    def architecture(self) -> str:
        return "qwen3moe" if self.num_experts else "qwen3"

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts(
            self.architecture,
            self.num_hidden_layers,
            self.num_experts,
            self.num_attention_heads,
            self.num_key_value_heads,
        )


def _is_moe(config: Mapping[str, Any]) -> bool:
    names = config.get("architectures") or [str(config.get("model_type"))]
    if names[0] in ("Qwen3MoeForCausalLM", "qwen3_moe"):
        return True
    if names[0] in ("Qwen3ForCausalLM", "qwen3"):
        return False
    raise UnsupportedArchitecture(f"The text model {names[0]} cannot be converted; Qwen3 and Qwen3-MoE can.")


def plan_text(checkpoint: Checkpoint) -> FilePlan:
    config = Config.from_dict(checkpoint.config)
    vocabulary = vocab_bpe.read_vocabulary(checkpoint)
    keys = {
        **metadata.general(checkpoint, "model", config.architecture),
        **metadata.sampling(checkpoint),
        **fields(config),
        **vocab_bpe.fields(vocabulary, config.vocab_size),
        **metadata.chat_template(checkpoint),
    }
    return FilePlan(keys, tensors(checkpoint, config, "model.", "lm_head.weight"), config.facts)


def plan_vision(checkpoint: Checkpoint) -> FilePlan | None:
    return None


def fields(config: Config) -> dict[str, Any]:
    """The keys of the GGUF architecture."""
    a = config.architecture
    keys = config.keys(a)
    if config.num_experts:
        keys[f"{a}.expert_count"] = config.num_experts
        keys[f"{a}.expert_used_count"] = config.num_experts_per_tok
        keys[f"{a}.expert_feed_forward_length"] = config.moe_intermediate_size
    return keys


def tensors(checkpoint: Checkpoint, config: Config, prefix: str, head: str) -> list[TensorPlan]:
    """All tensors; `prefix` ends before `layers.0`, `head` is the name of the output matrix."""
    hidden, vocab = config.hidden_size, config.vocab_size
    plans = [whole(checkpoint, f"{prefix}embed_tokens.weight", "token_embd.weight", (vocab, hidden))]
    for layer in range(config.num_hidden_layers):
        plans += _attention(checkpoint, config, f"{prefix}layers.{layer}.", f"blk.{layer}.")
        feed_forward = _experts if config.num_experts else _dense
        plans += feed_forward(checkpoint, config, f"{prefix}layers.{layer}.", f"blk.{layer}.")
    plans.append(whole(checkpoint, f"{prefix}norm.weight", "output_norm.weight", (hidden,)))
    if config.tie_word_embeddings:
        checkpoint.used.add(head)
    else:
        plans.append(whole(checkpoint, head, "output.weight", (vocab, hidden)))
    return plans


def _attention(checkpoint: Checkpoint, config: Config, source: str, name: str) -> list[TensorPlan]:
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "ffn_norm": (hidden,),
    }
    return [
        whole(checkpoint, f"{source}{old}.weight", f"{name}{new}.weight", shapes[new]) for new, old in ATTENTION.items()
    ]


def _dense(checkpoint: Checkpoint, config: Config, source: str, name: str) -> list[TensorPlan]:
    hidden, width = config.hidden_size, config.intermediate_size
    shapes = {"ffn_gate": (width, hidden), "ffn_up": (width, hidden), "ffn_down": (hidden, width)}
    return [
        whole(checkpoint, f"{source}{DENSE[part]}.weight", f"{name}{part}.weight", shape)
        for part, shape in shapes.items()
    ]


def _experts(checkpoint: Checkpoint, config: Config, source: str, name: str) -> list[TensorPlan]:
    hidden, width, count = config.hidden_size, config.moe_intermediate_size, config.num_experts
    router = whole(
        checkpoint, f"{source}{ROUTER['ffn_gate_inp']}.weight", f"{name}ffn_gate_inp.weight", (count, hidden)
    )
    source = f"{source}mlp."
    packed_name = f"{source}experts.gate_up_proj"
    if packed_name in checkpoint.tensors:
        return [router, *_packed_experts(checkpoint, config, source, name)]
    shapes = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    output: Callable[[str], str] = lambda part: f"{name}ffn_{part}_exps.weight"  # noqa: E731
    return [
        router,
        *(
            stacked(checkpoint, [f"{source}experts.{e}.{part}_proj.weight" for e in range(count)], output(part), shape)
            for part, shape in shapes.items()
        ),
    ]


def _packed_experts(checkpoint: Checkpoint, config: Config, source: str, name: str) -> list[TensorPlan]:
    """One tensor for all experts' gate and up, one for down; their orientation shows in the shape."""
    hidden, width, count = config.hidden_size, config.moe_intermediate_size, config.num_experts
    gate_up, down = f"{source}experts.gate_up_proj", f"{source}experts.down_proj"
    joint = (count, 2 * width, hidden)
    turned = checkpoint.tensors[gate_up].shape != joint
    return [
        packed(checkpoint, gate_up, f"{name}ffn_gate_exps.weight", joint, (0, width), turned),
        packed(checkpoint, gate_up, f"{name}ffn_up_exps.weight", joint, (width, 2 * width), turned),
        packed(checkpoint, down, f"{name}ffn_down_exps.weight", (count, hidden, width), (0, hidden), turned),
    ]
