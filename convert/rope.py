"""Rotary positions: the scaling keys of a file, and contexts longer than the trained one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.errors import ConvertError, UnsupportedArchitecture


def kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("rope_type", settings.get("type", "default")))


def keys(settings: Mapping[str, Any], a: str, base: float, context_length: int) -> dict[str, Any]:
    """Keys for the architecture `a`, trained with the rotary `base` for `context_length` tokens."""
    return {f"{a}.rope.freq_base": base, **_scaling(settings, a, base, context_length)}


def _scaling(settings: Mapping[str, Any], a: str, base: float, context_length: int) -> dict[str, Any]:
    if kind(settings) == "default":
        return {}
    if kind(settings) == "dynamic":
        # It changes nothing within the trained context. llama.cpp has no keys for it; these are for our own loader.
        return {
            "interns1.rope.dynamic.factor": float(settings.get("factor", 1.0)),
            "interns1.rope.dynamic.freq_base": base,
            "interns1.rope.dynamic.context_length": context_length,
        }
    if kind(settings) not in ("linear", "yarn"):
        raise UnsupportedArchitecture(
            f"rope scaling {kind(settings)!r} cannot be converted; dynamic, linear and yarn can."
        )
    found: dict[str, Any] = {
        f"{a}.rope.scaling.type": kind(settings),
        f"{a}.rope.scaling.factor": float(settings["factor"]),
    }
    original = settings.get("original_max_position_embeddings")
    if original:
        found[f"{a}.rope.scaling.original_context_length"] = int(original)
    return found


def stretch(fields: dict[str, Any], settings: Mapping[str, Any], context_length: int) -> None:
    """Give a model with dynamic scaling a longer context: the base that the reference uses at that length.

    The reference grows the base with the text; a file has one base, so it holds for short texts too.
    """
    a = fields["general.architecture"]
    trained = int(fields[f"{a}.context_length"])
    if context_length == trained:
        return
    if context_length < trained:
        raise ConvertError(
            f"The model is trained for {trained} tokens; a context length of {context_length} is no longer than that. "
            "Choose a shorter context when you run the model."
        )
    if kind(settings) != "dynamic":
        raise UnsupportedArchitecture(
            f"The model is trained for {trained} tokens and its config has no dynamic rope scaling, "
            f"so it cannot be given {context_length}."
        )
    size = int(fields.get(f"{a}.rope.dimension_count") or fields[f"{a}.attention.key_length"])
    factor = float(settings.get("factor", 1.0))
    growth = factor * context_length / trained - (factor - 1)
    fields[f"{a}.rope.freq_base"] = float(fields[f"{a}.rope.freq_base"] * growth ** (size / (size - 2)))
    fields[f"{a}.context_length"] = context_length
