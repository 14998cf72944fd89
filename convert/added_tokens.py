"""Added tokens and the ids of special tokens, from tokenizer_config.json and the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint


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


def read_added_tokens(checkpoint: Checkpoint, fast: Mapping[str, Any]) -> list[AddedToken]:
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


def special_ids(checkpoint: Checkpoint, added: list[AddedToken], base: Mapping[str, int]) -> dict[str, int]:
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
