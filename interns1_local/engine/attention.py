"""How attention is computed on a CPU. Pure: the engine computes so, and plans of memory count so."""

from __future__ import annotations

# Values of other types need flash attention.
PLAIN_KV_TYPES = ("f32", "f16", "bf16")
# Bytes of a batch's scores up to which there is a buffer for them.
LARGEST_SCORES = 2**30

# Rows of a call from which on llama.cpp's flash attention takes so many at a time (ggml's GGML_FA_TILE_Q).
TILE_ROWS = 64


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


def tile_rows(kv_type: str) -> int:
    """Rows of a call from which on flash attention takes a tile of them at a time; 0: it takes each by itself.

    A row by itself skips the cells of others. A tile computes all cells that any of its rows looks at, for 64 rows
    however few it has: with decodes of several sequences in it, that costs more than a second pass over the weights.
    """
    keys, values = kv_types(kv_type)
    return TILE_ROWS if keys == values and keys in ("f16", "f32") else 0
