"""SentencePiece vocabulary (tokenizer.model, added tokens) -> tokenizer.ggml.* keys."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert.added_tokens import AddedToken, read_added_tokens, special_ids
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint, UnsupportedArchitecture

FILE = "tokenizer.model"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BPE = 2
_ADDED_SCORE = -1000.0
TURN_END = "<|im_end|>"

# Special tokens that carry tool calls: llama.cpp's own server shows them only when they are of this type.
_ACTION_TOKENS = ("<|action_start|>", "<|action_end|>", "<|plugin|>", "<|interpreter|>")


@dataclass(slots=True)
class SentencePieceModel:
    """The parts of a model proto that decide how text is split."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)  # text, score, type
    model_type: int = 1
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as the checkpoint has it."""

    model: SentencePieceModel
    added: list[AddedToken]
    special_ids: dict[str, int]
    add_bos: bool


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    data = checkpoint.raw(FILE)
    if data is None:
        raise BrokenCheckpoint(f"{checkpoint.folder} has no {FILE}.")
    file = str(checkpoint.folder / FILE)
    try:
        model = parse(data)
    except (ValueError, struct.error) as error:
        raise BrokenCheckpoint(f"{file} is not a SentencePiece model: {error}.") from None
    if not model.pieces:
        raise BrokenCheckpoint(f"{file} is not a SentencePiece model: it has no pieces.")
    if model.model_type != BPE:
        raise UnsupportedArchitecture(f"{file} is not a BPE model; llama.cpp would split text in another way.")
    added = read_added_tokens(checkpoint, {})
    ids = special_ids(checkpoint, added, {text: id for id, (text, _, _) in enumerate(model.pieces)})
    turn_end = next((token.id for token in added if token.content == TURN_END), None)
    if turn_end is not None:
        ids["eos"] = turn_end  # a chat model ends its turn, not the document
    add_bos = checkpoint.json("tokenizer_config.json").get("add_bos_token")
    return Vocabulary(model, added, ids, add_bos is None or bool(add_bos))


def fields(vocabulary: Vocabulary, vocab_size: int) -> dict[str, Any]:
    """The tokenizer.ggml.* keys. Ids without a token become unused placeholders."""
    tokens = [f"[PAD{id}]" for id in range(vocab_size)]
    types = np.full(vocab_size, UNUSED, np.int32)
    scores = np.full(vocab_size, _ADDED_SCORE, np.float32)
    model = vocabulary.model
    highest = max(len(model.pieces) - 1, max((token.id for token in vocabulary.added), default=0))
    if highest >= vocab_size:
        raise BrokenCheckpoint(f"The tokenizer has id {highest}; the model has {vocab_size} tokens.")
    for id, (text, score, kind) in enumerate(model.pieces):
        if text and "\0" not in text:  # llama.cpp reads names as C strings
            tokens[id], scores[id], types[id] = text, score, kind
    for token in vocabulary.added:
        if tokens[token.id] != token.content:
            tokens[token.id], scores[token.id] = token.content, _ADDED_SCORE
        elif types[token.id] == UNKNOWN:
            continue
        visible = not token.special or token.content in _ACTION_TOKENS
        types[token.id] = USER_DEFINED if visible else CONTROL
    _check_unique(tokens)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": vocabulary.add_bos,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    for role, id in {**_unknown(model), **vocabulary.special_ids}.items():
        if not 0 <= id < vocab_size:
            raise BrokenCheckpoint(f"The {role} token has id {id}; the model has {vocab_size} tokens.")
        keys[f"tokenizer.ggml.{role}_token_id"] = id
    keys["interns1.tokenizer.added_tokens"] = json.dumps([t.as_json() for t in vocabulary.added], ensure_ascii=False)
    return keys


def _unknown(model: SentencePieceModel) -> dict[str, int]:
    found = next((id for id, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), None)
    return {} if found is None else {"unknown": found}


def _check_unique(tokens: list[str]) -> None:
    seen: dict[str, int] = {}
    for id, text in enumerate(tokens):
        if seen.setdefault(text, id) != id:
            raise BrokenCheckpoint(
                f"Ids {seen[text]} and {id} have the token {text!r}; llama.cpp cannot load such a vocabulary."
            )


# --- the model proto, in protobuf's wire format ---


def parse(data: bytes) -> SentencePieceModel:
    """Read a serialized ModelProto. ValueError when it is none."""
    model = SentencePieceModel()
    for number, value in _messages(data):
        if number == 1:
            model.pieces.append(_piece(_bytes(value)))
        elif number == 2:
            model.model_type = int(dict(_messages(_bytes(value))).get(3, model.model_type))
        elif number == 3:
            settings = dict(_messages(_bytes(value)))
            model.add_dummy_prefix = bool(settings.get(3, True))
            model.remove_extra_whitespaces = bool(settings.get(4, True))
    return model


def _piece(data: bytes) -> tuple[str, float, int]:
    entry = dict(_messages(data))
    score = entry.get(2, bytes(4))
    return _bytes(entry.get(1, b"")).decode(), struct.unpack("<f", _bytes(score))[0], int(entry.get(3, NORMAL))


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a text was expected")
    return value


def _messages(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, value) pairs: numbers for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError("it ends inside a field")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("it ends inside a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
