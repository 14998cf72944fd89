"""The options that a Modelfile or a request may set: their names, types and texts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from interns1_local.errors import BadRequest, InternS1Error

OPTION_TYPES: dict[str, str] = {
    "num_ctx": "integer",
    "num_batch": "integer",
    "num_gpu": "integer",
    "num_parallel": "integer",
    "n_cpu_moe": "integer",
    "override_tensor": "array",
    "split_mode": "string",
    "tensor_split": "numbers",
    "main_gpu": "integer",
    "kv_cache_type": "string",
    "flash_attention": "switch",
    "backend_sampling": "switch",
    "use_mmap": "boolean",
    "use_mlock": "boolean",
    "numa": "switch",
    "num_thread": "integer",
    "draft_num_predict": "integer",
    "num_draft": "integer",
    "speculative": "string",
    "num_keep": "integer",
    "shift": "boolean",
    "seed": "integer",
    "num_predict": "integer",
    "top_k": "integer",
    "top_p": "float32",
    "min_p": "float32",
    "typical_p": "float32",
    "repeat_last_n": "integer",
    "temperature": "float32",
    "repeat_penalty": "float32",
    "presence_penalty": "float32",
    "frequency_penalty": "float32",
    "stop": "array",
    "think": "think",
    "think_budget": "integer",
    "max_patches": "integer",
    "max_total_patches": "integer",
    "num_frames": "integer",
    "adapter": "string",
    "adapter_scale": "float32",
    "fps": "float32",
    "frame_prefix": "string",
}
# Old clients and old Modelfiles still name these; nothing reads them any more.
IGNORED_OPTIONS = {
    *("penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only"),
    *("tfs_z", "mirostat", "mirostat_tau", "mirostat_eta"),
}
THINK_LEVELS = ("high", "medium", "low", "max")


class OptionTypeError(InternS1Error):
    """An option of the wrong type. The status is the one that Ollama's clients know for it."""

    code = "invalid_option"


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The known options of a request, each of its type. Unknown ones are left out, as Ollama leaves them."""
    checked: dict[str, Any] = {}
    for name, value in options.items():
        kind = OPTION_TYPES.get(name)
        if kind is not None and value is not None:
            checked[name] = _check(name, kind, value)
    return checked


def parse_parameters(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The PARAMETER lines of a Modelfile as typed values; `stop` collects, any other name keeps its last value."""
    parsed: dict[str, Any] = {}
    for name, text in pairs:
        if name in IGNORED_OPTIONS:
            continue
        kind = OPTION_TYPES.get(name)
        if kind is None:
            raise unknown_option(name)
        if kind == "array":
            parsed.setdefault(name, []).append(text)
        else:
            parsed[name] = _parse(kind, text)
    return parsed


def unknown_option(name: str, otherwise: str = "") -> BadRequest:
    """The error for an option that there is not, with the one that may have been meant, or else with `otherwise`."""
    near = difflib.get_close_matches(name, list(OPTION_TYPES), n=1)
    hint = f"did you mean '{near[0]}'?" if near else otherwise
    return BadRequest(f"unknown parameter '{name}'" + (f": {hint}" if hint else ""))


def think_value(value: Any) -> bool | str:
    """A value of `think`: true, false or a level."""
    if isinstance(value, bool) or value in THINK_LEVELS:
        return value  # type: ignore[no-any-return]
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    raise BadRequest(f'invalid think value: {shown} (must be "high", "medium", "low", "max", true, or false)')


def _check(name: str, kind: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer" and number and float(value).is_integer():
        return int(value)
    if kind == "float32" and number:
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "string" and isinstance(value, str):
        return value
    if kind == "array" and isinstance(value, str):
        return [value]
    if kind == "array" and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return list(value)
        raise OptionTypeError(f'option "{name}" must be of an array of strings')
    if kind == "think":
        return think_value(value)
    if kind == "switch" and isinstance(value, bool | str):
        return value
    if kind == "numbers" and isinstance(value, str | list | tuple):
        return value
    raise OptionTypeError(f'option "{name}" must be of type {kind}; it is {json.dumps(value)[:80]}')


def _parse(kind: str, text: str) -> Any:
    try:
        if kind == "integer":
            return int(text)
        if kind == "float32":
            return float(text)
    except ValueError:
        go, wanted = ("int", "a whole number") if kind == "integer" else ("float", "a number")
        raise BadRequest(f"invalid {go} value [{text}]; {wanted} is expected") from None
    if kind in ("string", "numbers"):
        return text
    lowered = text.lower()
    if kind == "switch":
        return {"true": True, "false": False}.get(lowered, lowered)
    if kind == "boolean":
        if lowered in ("1", "t", "true", "0", "f", "false"):
            return lowered in ("1", "t", "true")
        raise BadRequest(f"invalid bool value [{text}]")
    return think_value({"true": True, "false": False}.get(lowered, lowered))
