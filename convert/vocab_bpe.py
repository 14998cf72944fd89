"""Byte-level BPE vocabulary (vocab.json, merges.txt, added tokens) -> tokenizer.ggml.* keys."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.added_tokens import AddedToken, read_added_tokens, special_ids
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
PRE_TOKENIZER = "qwen2"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parts of a tokenizer as the checkpoint has them."""

    base: Mapping[str, int]
    merges: list[str]
    added: list[AddedToken]
    special_ids: Mapping[str, int]  # bos, eos, padding

    def added_id(self, content: str) -> int | None:
        return next((token.id for token in self.added if token.content == content), None)


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """From vocab.json and merges.txt, or from tokenizer.json when they are absent."""
    merges_text = checkpoint.text("merges.txt")
    fast = checkpoint.json("tokenizer.json") if merges_text is None else {}
    if merges_text is not None:
        base = checkpoint.json("vocab.json", required=True)
        merges = [line for line in merges_text.splitlines() if line and not line.startswith("#version")]
    elif fast.get("model", {}).get("type") == "BPE":
        base = fast["model"]["vocab"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in fast["model"]["merges"]]
    else:
        raise BrokenCheckpoint(f"{checkpoint.folder} has neither vocab.json and merges.txt nor a BPE tokenizer.json.")
    if not isinstance(base, dict) or not all(isinstance(i, int) and i >= 0 for i in base.values()):
        raise BrokenCheckpoint(f"The vocabulary of {checkpoint.folder} is not a map from token to id.")
    added = read_added_tokens(checkpoint, fast)
    return Vocabulary(base, merges, added, special_ids(checkpoint, added, base))


def fields(vocabulary: Vocabulary, vocab_size: int, hidden: Container[int] = ()) -> dict[str, Any]:
    """The tokenizer.ggml.* keys. Ids in `hidden` and ids without a token become unused placeholders."""
    tokens = [f"[PAD{id}]" for id in range(vocab_size)]
    types = np.full(vocab_size, UNUSED, np.int32)
    taken = {
        **{id: text for text, id in vocabulary.base.items()},
        **{token.id: token.content for token in vocabulary.added},
    }
    if taken and max(taken) >= vocab_size:
        raise BrokenCheckpoint(f"Token {taken[max(taken)]!r} has id {max(taken)}; the model has {vocab_size} tokens.")
    for text, id in vocabulary.base.items():
        if id not in hidden:
            tokens[id], types[id] = text, NORMAL
    for token in vocabulary.added:
        tokens[token.id], types[token.id] = token.content, CONTROL if token.special else USER_DEFINED
    if len(set(tokens)) != len(tokens):
        double = next(text for text, id in zip(tokens, range(vocab_size), strict=True) if tokens.index(text) != id)
        raise BrokenCheckpoint(f"Two ids have the token {double!r}; llama.cpp cannot load such a vocabulary.")
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": PRE_TOKENIZER,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.add_bos_token": False,
    }
    for role, id in vocabulary.special_ids.items():
        if not 0 <= id < vocab_size:
            raise BrokenCheckpoint(f"The {role} token has id {id}; the model has {vocab_size} tokens.")
        keys[f"tokenizer.ggml.{role}_token_id"] = id
    keys["interns1.tokenizer.added_tokens"] = json_of_added_tokens(vocabulary.added)
    return keys


def json_of_added_tokens(added: list[AddedToken]) -> str:
    return json.dumps([token.as_json() for token in added], ensure_ascii=False)
