"""Models of any shape: as the planner sees them, and as sparse files of zeros that llama.cpp loads."""

from __future__ import annotations

from pathlib import Path

from interns1_local.runners.known_shapes import TextShape
from quant.gguf_output import TensorSpec, layout


def write_sparse(path: Path, shape: TextShape, type: str = "Q4_K_M") -> Path:
    """A GGUF file of this shape that takes no room on the disk, with a vocabulary of made-up words."""
    tokens = ["<|end|>", "!", *(f"t{number}" for number in range(shape.vocabulary - 2))]
    fields = {
        **shape.metadata(),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["i m"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
    }
    specs = [TensorSpec(name, tuple(size), kind) for name, size, kind, _ in shape.tensors(type)]
    header, infos = layout(fields, specs)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(infos[-1].offset + infos[-1].n_bytes)
    return path


SMALL = TextShape(512, 4, 8, 2, 64, 2000, 262144, ff_width=1536)
WIDE = TextShape(256, 2, 4, 4, 64, 1024, 262144, ff_width=4096)
EXPERTS = TextShape(512, 4, 8, 2, 64, 32000, 262144, n_experts=16, n_experts_used=4, expert_width=256)
MANY_WORDS = TextShape(256, 2, 4, 2, 64, 60000, 262144, ff_width=512)
