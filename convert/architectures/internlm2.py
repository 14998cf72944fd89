"""InternLM2 and InternLM2.5: Llama with queries, keys and values in one matrix, grouped by key-value head."""

from __future__ import annotations

from convert.architectures import llama
from convert.architectures.llama import Config
from convert.checkpoint import Checkpoint
from convert.plan import FilePlan, TensorPlan, heads, whole

COPIED = {
    "attn_norm": "attention_norm",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}


def plan_text(checkpoint: Checkpoint) -> FilePlan:
    config = Config.from_dict(checkpoint.config)
    # llama.cpp asks an internlm2 file for an output matrix; a llama file may share the embedding's.
    architecture = "llama" if config.tie_word_embeddings else "internlm2"
    plans = tensors(checkpoint, config)
    if config.tie_word_embeddings:
        checkpoint.used.add("output.weight")
    else:
        plans.append(whole(checkpoint, "output.weight", "output.weight", (config.vocab_size, config.hidden_size)))
    return FilePlan(llama.fields(checkpoint, config, architecture), plans, config.facts(architecture))


def plan_vision(checkpoint: Checkpoint) -> FilePlan | None:
    return None


def tensors(checkpoint: Checkpoint, config: Config) -> list[TensorPlan]:
    """Everything below the output matrix."""
    hidden, vocab = config.hidden_size, config.vocab_size
    plans = [whole(checkpoint, "model.tok_embeddings.weight", "token_embd.weight", (vocab, hidden))]
    shapes = config.vectors_and_matrices()
    for layer in range(config.num_hidden_layers):
        source, name = f"model.layers.{layer}.", f"blk.{layer}."
        plans += _attention(checkpoint, config, f"{source}attention.wqkv.weight", name)
        plans += [
            whole(checkpoint, f"{source}{old}.weight", f"{name}{new}.weight", shapes[new])
            for new, old in COPIED.items()
        ]
    plans.append(whole(checkpoint, "model.norm.weight", "output_norm.weight", (hidden,)))
    return plans


def _attention(checkpoint: Checkpoint, config: Config, source: str, name: str) -> list[TensorPlan]:
    """Each group holds its query heads, then its key head, then its value head."""
    size, queries, groups = config.head_dim, config.heads_per_kv, config.num_key_value_heads
    stored = (groups * (queries + 2) * size, config.hidden_size)
    first_rows = [group * (queries + 2) * size for group in range(groups)]
    starts = {
        "attn_q": [row + query * size for row in first_rows for query in range(queries)],
        "attn_k": [row + queries * size for row in first_rows],
        "attn_v": [row + (queries + 1) * size for row in first_rows],
    }
    return [
        heads(checkpoint, source, f"{name}{part}.weight", stored, rows, size, paired=part != "attn_v")
        for part, rows in starts.items()
    ]
