"""Reading config.json: counts that must be counts, and settings that llama.cpp fixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.errors import BrokenCheckpoint, UnsupportedArchitecture


def count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number."""
    value = config.get(key) if config.get(key) is not None else default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BrokenCheckpoint(f"config.json: {key} is {value!r}; a count was expected.")
    return value


def refuse_unknown(config: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    """Settings with a fixed meaning in llama.cpp; another value would be computed wrongly without a word."""
    for key, allowed in fixed.items():
        value = config.get(key)
        if value is not None and value not in allowed:
            raise UnsupportedArchitecture(f"{key} is {value!r}; llama.cpp only computes {allowed[0]!r}.")


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rope settings; transformers 5 groups them under rope_parameters."""
    return dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
