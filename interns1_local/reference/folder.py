"""A checkpoint folder as Hugging Face lays it out: its settings, its added tokens and its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interns1_local.errors import LoadError


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """The object in a JSON file; an empty one when the file is absent and not required."""
    if not path.is_file():
        if required:
            raise LoadError(f"{path.parent} has no {path.name}; the folder of a Hugging Face checkpoint is expected")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{path} is not valid JSON: {error}; download it again") from None
    if not isinstance(content, dict):
        raise LoadError(f"{path} holds a {type(content).__name__}; an object was expected")
    return content


def added_tokens(folder: Path) -> dict[str, int]:
    """Spelling -> id, from added_tokens.json, tokenizer_config.json and tokenizer.json."""
    found = {str(entry["content"]): int(entry["id"]) for entry in _fast_entries(folder)}
    found |= {str(entry["content"]): int(id) for id, entry in _decoder(folder).items()}
    return found | {text: int(id) for text, id in read_json(folder / "added_tokens.json", required=False).items()}


def special_ids(folder: Path) -> set[int]:
    """Ids that are left out of a text."""
    found = {int(entry["id"]) for entry in _fast_entries(folder) if entry.get("special")}
    return found | {int(id) for id, entry in _decoder(folder).items() if entry.get("special")}


def chat_template(folder: Path) -> str | None:
    """The Jinja source, from the newer place or the older one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_json(folder / name, required=False).get("chat_template")
        if isinstance(found, list):
            found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
        if isinstance(found, str):
            return found
    return None


def role_tokens(folder: Path) -> dict[str, str]:
    """bos_token and eos_token as templates are given them."""
    config = read_json(folder / "tokenizer_config.json", required=False)
    values = {role: config.get(role) for role in ("bos_token", "eos_token")}
    return {
        role: str(value["content"] if isinstance(value, dict) else value) for role, value in values.items() if value
    }


def _decoder(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "tokenizer_config.json", required=False)
    return dict(config.get("added_tokens_decoder") or {})


def _fast_entries(folder: Path) -> list[dict[str, Any]]:
    return list(read_json(folder / "tokenizer.json", required=False).get("added_tokens") or [])
