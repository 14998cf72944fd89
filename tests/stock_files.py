"""GGUF files as llama.cpp's own converter writes them, made from ours: no keys of ours, position rows as they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from convert.vocab_bpe import CONTROL, NORMAL, USER_DEFINED
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create

# What the stock converter leaves out of a mini's file, besides every key of ours.
_LEFT_OUT = ("interns1.", "general.sampling.", "tokenizer.chat_template", "clip.vision.preproc_")
POSITIONS = "v.position_embd.weight"


def stock_model(ours: Path, output: Path, *, fillers: bool = False) -> Path:
    """Tokens that look special are control tokens, whatever the checkpoint says of them.

    `fillers`: the science pieces have the names that a newer tokenizer gives them, as if they were text.
    """
    fields = read_metadata(ours).fields
    tokens, types = list(fields["tokenizer.ggml.tokens"]), np.array(fields["tokenizer.ggml.token_type"], np.int32)
    for id, token in enumerate(tokens):
        if types[id] == USER_DEFINED and token.startswith("<|") and token.endswith("|>"):
            types[id] = CONTROL
    for name in fields["interns1.tokenizer.domains"] if fillers else ():
        model = bytes(fields[f"interns1.tokenizer.{name}.model"])
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        for piece in range(processor.GetPieceSize()):
            id = fields[f"interns1.tokenizer.{name}.offset"] + piece
            tokens[id], types[id] = f"<|{name.upper()}_{processor.IdToPiece(piece)}|>", NORMAL
    return _copy(ours, output, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})


def stock_mmproj(ours: Path, output: Path) -> Path:
    """The class token's position first, in three dimensions."""
    return _copy(ours, output, {}, lambda rows: np.concatenate([rows[-1:], rows[:-1]]))


def positions(path: Path) -> np.ndarray:
    """The position table, float32 [positions, width]."""
    table = next(tensor for tensor in read_metadata(path).tensors if tensor.name == POSITIONS)
    data = np.fromfile(path, np.float32, table.n_bytes // 4, offset=table.offset)
    return data.reshape(-1, table.shape[-1])


def tensor_bytes(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    return {t.name: data[t.offset : t.offset + t.n_bytes] for t in read_metadata(path).tensors}


def _copy(
    ours: Path, output: Path, changed: dict[str, Any], roll: Callable[[np.ndarray], np.ndarray] | None = None
) -> Path:
    metadata, content = read_metadata(ours), tensor_bytes(ours)
    fields: dict[str, Any] = {
        key: value for key, value in metadata.raw_fields().items() if not key.startswith(_LEFT_OUT)
    } | changed
    specs = []
    for tensor in metadata.tensors:
        shape = tensor.shape
        if tensor.name == POSITIONS and roll is not None:
            shape = (1, *shape)
            content[tensor.name] = roll(positions(ours)).tobytes()
        specs.append(TensorSpec(tensor.name, shape, tensor.type))
    with create(output, fields, specs) as written:
        for name, data in content.items():
            written.write(name, 0, data)
    return output
