"""Byte-level BPE vocabulary (vocab.json, merges.txt, added tokens) -> tokenizer.ggml.* keys."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
PRE_TOKENIZER = "qwen2"


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched as a whole before BPE."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "content": self.content,
            "special": self.special,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "single_word": self.single_word,
            "normalized": self.normalized,
        }


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
    added = _added_tokens(checkpoint, fast)
    return Vocabulary(base, merges, added, _special_ids(checkpoint, added, base))


def _added_tokens(checkpoint: Checkpoint, fast: Mapping[str, Any]) -> list[AddedToken]:
    """tokenizer_config.json says most; tokens that only added_tokens.json knows are special when they have a role."""
    config = checkpoint.json("tokenizer_config.json")
    found: dict[int, AddedToken] = {}
    entries = [(int(id), entry) for id, entry in (config.get("added_tokens_decoder") or {}).items()]
    entries += [(int(entry["id"]), entry) for entry in fast.get("added_tokens") or []]
    for id, entry in entries:
        flags = {key: bool(entry.get(key, False)) for key in ("lstrip", "rstrip", "single_word", "normalized")}
        found.setdefault(id, AddedToken(id, str(entry["content"]), bool(entry.get("special", False)), **flags))
    roles = _roles(checkpoint, config)
    for content, id in checkpoint.json("added_tokens.json").items():
        known = found.setdefault(int(id), AddedToken(int(id), content, content in roles))
        if known.content != content:
            raise BrokenCheckpoint(
                f"Id {id} is {known.content!r} in tokenizer_config.json and {content!r} in added_tokens.json."
            )
    contents = [token.content for token in found.values()]
    if len(set(contents)) != len(contents):
        double = next(content for content in contents if contents.count(content) > 1)
        raise BrokenCheckpoint(f"The added token {double!r} has two ids.")
    return [found[id] for id in sorted(found)]


def _roles(checkpoint: Checkpoint, config: Mapping[str, Any]) -> set[str]:
    """Every token that has a role, such as pad_token or additional_special_tokens."""
    roles: set[str] = set()
    for place in (checkpoint.json("special_tokens_map.json"), config):
        for key, value in place.items():
            if key.endswith("_token") or key in ("additional_special_tokens", "extra_special_tokens"):
                values = value.values() if isinstance(value, dict) and "content" not in value else value
                for token in values if isinstance(values, list | type({}.values())) else [values]:
                    roles.add(_content(token))
    return roles


def _content(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _special_ids(checkpoint: Checkpoint, added: list[AddedToken], base: Mapping[str, int]) -> dict[str, int]:
    """Ids by role: generation_config.json first, then config.json, then the tokenizer's names."""
    config = checkpoint.config
    places = (checkpoint.json("generation_config.json"), config.get("text_config") or {}, config)
    names = {token.content: token.id for token in added}
    tokenizer = {**checkpoint.json("special_tokens_map.json"), **checkpoint.json("tokenizer_config.json")}
    found: dict[str, int] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        values = [place.get(f"{key}_token_id") for place in places]
        values = [value[0] if isinstance(value, list) and value else value for value in values]
        id = next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
        if id is None and tokenizer.get(f"{key}_token"):
            content = _content(tokenizer[f"{key}_token"])
            id = names.get(content, base.get(content))
        if id is not None:
            found[role] = id
    if "bos" not in found and "<|endoftext|>" in names:
        found["bos"] = names["<|endoftext|>"]  # as the published GGUF files have it; it is never added to a prompt
    return found


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
    keys["interns1.tokenizer.added_tokens"] = json.dumps([t.as_json() for t in vocabulary.added], ensure_ascii=False)
    return keys
