"""When attention goes without flash attention on a CPU. Pure: the engine computes so, and plans of memory count so."""

from __future__ import annotations

# Values of other types need flash attention.
PLAIN_KV_TYPES = ("f32", "f16", "bf16")
# Bytes of a batch's scores up to which there is a buffer for them.
LARGEST_SCORES = 2**30


def kv_types(text: str) -> tuple[str, str]:
    """`q8_0` -> (q8_0, q8_0); `q8_0/f16` -> (q8_0, f16): the types of keys and of values."""
    keys, slash, values = text.partition("/")
    return keys, values if slash else keys


def attends_exactly(weights_are_exact: bool, kv_type: str, n_cells: int, n_batch: int, n_heads: int) -> bool:
    """Whether to do without flash attention, which adds up in 16 bits on CPUs.

    With it the other sequences of a batch change an answer's logits a little. With rounded weights they do so anyway,
    by as much: a last bit decides how an activation is rounded. But without it every sequence at work pays for all
    cells of the cache, so only models in F32 go without.
    """
    plain = {*kv_types(kv_type)} <= {*PLAIN_KV_TYPES}
    return weights_are_exact and plain and 4 * n_cells * n_batch * n_heads <= LARGEST_SCORES
