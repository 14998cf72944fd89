"""How much memory a loaded model takes, part by part, from its shape and its load options.

The formulas follow what llama.cpp allocates (its log of a load is the oracle of tests/runners/test_estimate.py):
keys and values are exact; a graph's buffer is that of its largest phase, in values of 4 bytes a token of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from interns1_local.engine.attention import attends_exactly
from interns1_local.runners.model_shape import ModelShape, VisionShape, Weight, row_bytes

MIB = 2**20
# Python with numpy, llama.cpp and what they allocate for themselves; and code and read-only data mapped from files.
PROGRAM_BYTES = 40 * MIB
PROGRAM_MAPPED = 30 * MIB
# A token's text in llama.cpp's tables and in the tokenizer's.
TOKEN_BYTES = 600
# The model's file read once more without its weights, for a tower that is read beside it (engine/tower): 22 MB with a
# vocabulary of 32,000 tokens, 40 MB with one of 262,144.
OUTLINE_BYTES = 19 * MIB
OUTLINE_TOKEN_BYTES = 80
# Sequences that keep a finished answer's cells, see engine/engine.CACHED_SEQUENCES.
KEPT_SEQUENCES = 24
CELL_PADDING = 256
# Numbers of a patch's pixels, in 4 bytes each.
PATCH_BYTES = 4 * 3 * 14 * 14
# See engine/draft_model.READ_AT_ONCE.
DRAFT_BATCH = 256
# Rows of logits that samplers in the graph need: a copy of all, and these.
SAMPLER_ROWS = 7


@dataclass(frozen=True, slots=True)
class Graph:
    """What a computation's memory depends on beside the model: cells include those of all sequences."""

    cells: int
    batch: int
    sequences: int
    flash: bool
    k_type: str = "F16"
    v_type: str = "F16"
    # 0: as many as an answering context has.
    n_outputs: int = 0
    # Whether tokens may be chosen where the output is computed, see engine/backend_sampling.
    samples: bool = False

    @property
    def outputs(self) -> int:
        """Tokens of a batch that may have logits."""
        return self.n_outputs or min(self.sequences + KEPT_SEQUENCES, 256)

    @property
    def padded_cells(self) -> int:
        return -(-self.cells // CELL_PADDING) * CELL_PADDING


def kv_bytes(shape: ModelShape, graph: Graph, layer: int) -> int:
    """Keys and values of one layer."""
    keys, values = shape.kv_widths[layer]
    return graph.padded_cells * (row_bytes(graph.k_type, keys) + row_bytes(graph.v_type, values))


def compute_bytes(shape: ModelShape, graph: Graph) -> int:
    """The buffer of the graph's intermediate values on a device that computes layers and output."""
    keys, values = max(shape.kv_widths, default=(0, 0))
    mask = graph.padded_cells / 2 if graph.flash else graph.padded_cells
    scores = 0 if graph.flash else graph.padded_cells * shape.n_heads
    attention = scores + 3 * shape.width + 2 * shape.query_width + keys + values
    feed_forward = 3 * shape.ff_width + 4 * shape.width
    if shape.has_experts:
        chosen, inner = shape.n_experts_used * shape.width, shape.n_experts_used * shape.expert_width
        feed_forward = max(2 * chosen + 2 * inner, 3 * inner + 4 * shape.width)
    layers = graph.batch * (mask + max(attention, feed_forward))
    output = graph.outputs * (shape.vocabulary + shape.width) + graph.batch * shape.width
    if graph.samples:
        output += (graph.outputs + SAMPLER_ROWS) * shape.vocabulary
    return int(4 * max(layers, output))


def input_bytes(shape: ModelShape, graph: Graph) -> int:
    """What the CPU prepares for a graph that other devices compute: embeddings, mask, and where each value goes.

    Without flash attention values are kept by column, and each of a token's has a place of its own.
    """
    places = 0 if graph.flash else max((values for _, values in shape.kv_widths), default=0)
    return graph.batch * (4 * (shape.width + graph.padded_cells) + 8 * places)


def work_bytes(shape: ModelShape, graph: Graph) -> int:
    """The CPU's scratch memory: the second factor of its largest product, in the type of the first."""
    widest = max(shape.ff_width, shape.query_width, shape.width, shape.n_experts_used * shape.expert_width)
    work = graph.batch * widest * 2
    if not graph.flash and graph.v_type != "F32":
        work = max(work, 2 * graph.batch * graph.padded_cells * shape.n_heads)
    return work


def output_bytes(shape: ModelShape, graph: Graph) -> int:
    """Logits of a batch, in RAM; with samplers in the graph also candidates, their logits and probabilities."""
    return (16 if graph.samples else 4) * graph.outputs * shape.vocabulary


def program_bytes(shape: ModelShape) -> int:
    """The worker itself with its tables of the vocabulary."""
    return PROGRAM_BYTES + TOKEN_BYTES * shape.vocabulary


def outline_bytes(shape: ModelShape) -> int:
    """What a tower that is not on a GPU asks of its model."""
    return OUTLINE_BYTES + OUTLINE_TOKEN_BYTES * shape.vocabulary


def vision_bytes(vision: VisionShape) -> int:
    """A vision tower with the intermediate values of one tile."""
    # Attention keeps no scores here (flash attention); the CPU has a copy of a matrix product's input in 16 bits.
    values = 4 * (vision.ff_width + 3 * vision.width) + 2 * vision.ff_width
    return vision.n_bytes + vision.n_positions * (values + PATCH_BYTES)


def draft_graph(graph: Graph, shape: ModelShape) -> Graph:
    """What a draft model of this shape computes for answers that `graph` computes, see engine/draft_model."""
    batch = min(max(DRAFT_BATCH, graph.sequences), graph.cells)
    return replace(graph, batch=batch, flash=_flash(graph, shape, batch), n_outputs=graph.sequences, samples=False)


def pooling_graph(graph: Graph, shape: ModelShape) -> Graph | None:
    """The context that makes embeddings at its largest, see engine/pooling; None where a model makes none."""
    if not shape.pooled_at_once:
        return None
    batch = min(shape.pooled_at_once, graph.cells)
    return replace(graph, batch=batch, flash=_flash(graph, shape, batch), n_outputs=batch, samples=False)


def _flash(graph: Graph, shape: ModelShape, batch: int) -> bool:
    """Whether a context beside that of `graph` uses flash attention: the engine leaves each its own choice."""
    kv_type = f"{graph.k_type}/{graph.v_type}".lower()
    return graph.flash and not attends_exactly(shape.is_exact, kv_type, graph.cells, batch, shape.n_heads)


def repacked_bytes(weight: Weight, features: frozenset[str]) -> int:
    """Bytes of the second copy that the CPU makes of a weight in an order that suits it; 0 for most types."""
    is_dense = weight.is_matrix and not weight.is_expert
    if "AMX_INT8" in features and is_dense and weight.type in _AMX and weight.rows % AMX_ROWS == 0:
        packed, unpacked = _AMX[weight.type]
        return weight.n_bytes * packed // unpacked
    needed = _REPACKED.get(weight.type)
    if needed is None or not weight.is_matrix or "REPACK" not in features or weight.rows % 8:
        return 0
    return weight.n_bytes if any(names <= features for names in needed) else 0


def cpu_features(system_info: str) -> frozenset[str]:
    """`CPU : AVX2 = 1 | FMA = 1` -> {"AVX2", "FMA"}."""
    parts = system_info.replace(":", "|").split("|")
    pairs = (part.partition("=") for part in parts)
    return frozenset(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


# ggml-cpu's amx/mmq.cpp: type -> bytes of a block there, and in the file. Experts are none of its products.
_AMX: dict[str, tuple[int, int]] = {
    "Q4_0": (18, 18),
    "Q4_1": (20, 20),
    "Q8_0": (38, 34),
    "Q4_K": (148, 144),
    "Q5_K": (180, 176),
    "Q6_K": (210, 210),
    "IQ4_XS": (138, 136),
    "F16": (2, 2),
}
AMX_ROWS = 32
_ARM = frozenset({"NEON", "DOTPROD"})
# ggml-cpu's repack.cpp: type -> sets of features, one of which suffices.
_REPACKED: dict[str, tuple[frozenset[str], ...]] = {
    "Q4_0": (frozenset({"AVX2"}), _ARM),
    "Q4_K": (frozenset({"AVX2"}), _ARM),
    "Q2_K": (frozenset({"AVX512"}),),
    "Q5_K": (_ARM,),
    "Q6_K": (_ARM,),
    "IQ4_NL": (frozenset({"AVX2"}), _ARM),
    "MXFP4": (frozenset({"AVX2"}), _ARM),
    "Q8_0": (_ARM,),
}
