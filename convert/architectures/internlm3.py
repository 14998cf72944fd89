"""InternLM3: Llama in all but its name."""

from __future__ import annotations

from convert.architectures import llama
from convert.architectures.llama import Config
from convert.checkpoint import Checkpoint
from convert.plan import FilePlan, TensorPlan, heads, whole

COPIED = {
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def plan_text(checkpoint: Checkpoint) -> FilePlan:
    config = Config.from_dict(checkpoint.config)
    return FilePlan(llama.fields(checkpoint, config, "llama"), _tensors(checkpoint, config), config.facts("llama"))


def plan_vision(checkpoint: Checkpoint) -> FilePlan | None:
    return None


def _tensors(checkpoint: Checkpoint, config: Config) -> list[TensorPlan]:
    hidden, vocab, size = config.hidden_size, config.vocab_size, config.head_dim
    plans = [whole(checkpoint, "model.embed_tokens.weight", "token_embd.weight", (vocab, hidden))]
    shapes = config.vectors_and_matrices()
    n_heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        source, name = f"model.layers.{layer}.", f"blk.{layer}."
        for part, n in n_heads.items():
            rows = [head * size for head in range(n)]
            old, new = f"{source}self_attn.{part}_proj.weight", f"{name}attn_{part}.weight"
            plans.append(heads(checkpoint, old, new, (n * size, hidden), rows, size, paired=part != "v"))
        plans += [
            whole(checkpoint, f"{source}{old}.weight", f"{name}{new}.weight", shapes[new])
            for new, old in COPIED.items()
        ]
    plans.append(whole(checkpoint, "model.norm.weight", "output_norm.weight", (hidden,)))
    if config.tie_word_embeddings:
        checkpoint.used.add("lm_head.weight")
    else:
        plans.append(whole(checkpoint, "lm_head.weight", "output.weight", (vocab, hidden)))
    return plans
