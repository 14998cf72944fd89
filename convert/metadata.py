"""The metadata keys that every output carries: general.*, the sampling defaults and the chat template."""

from __future__ import annotations

import json
from typing import Any

from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from quant.gguf_values import INT32, Typed

# generation_config.json -> general.sampling.*
_SAMPLING = (
    ("temperature", "temp", float),
    ("top_k", "top_k", int),
    ("top_p", "top_p", float),
    ("min_p", "min_p", float),
    ("repetition_penalty", "penalty_repeat", float),
)
_MOST = 2**31


def general(checkpoint: Checkpoint, kind: str, architecture: str) -> dict[str, Any]:
    """`kind` is "model" or "mmproj"."""
    return {
        "general.architecture": architecture,
        "general.type": kind,
        "general.name": _name(checkpoint),
        "general.quantization_version": 2,
    }


def _name(checkpoint: Checkpoint) -> str:
    given = checkpoint.config.get("_name_or_path") or ""
    return str(given).rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or checkpoint.name


def sampling(checkpoint: Checkpoint) -> dict[str, Any]:
    """The sampling that the authors recommend, from generation_config.json."""
    settings = checkpoint.json("generation_config.json")
    fields: dict[str, Any] = {}
    for source, key, convert in _SAMPLING:
        value = settings.get(source)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
            raise BrokenCheckpoint(f"generation_config.json: {source} is {value!r}; a number was expected.")
        fields[f"general.sampling.{key}"] = Typed(INT32, int(value)) if convert is int else float(value)
    return fields


def chat_template(checkpoint: Checkpoint) -> dict[str, Any]:
    """The template of the checkpoint's own files: chat_template.jinja, chat_template.json or tokenizer_config.json."""
    template: Any = checkpoint.text("chat_template.jinja")
    if template is None:
        template = checkpoint.json("chat_template.json").get("chat_template")
    if template is None:
        template = checkpoint.json("tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several named templates
        by_name = {entry.get("name"): entry.get("template") for entry in template}
        template = by_name.get("default")
    if template is None:
        return {}
    if not isinstance(template, str):
        raise BrokenCheckpoint(f"The chat template is {json.dumps(template)[:80]}; a text was expected.")
    return {"tokenizer.chat_template": template}
