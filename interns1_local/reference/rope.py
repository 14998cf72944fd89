"""The base of the rotary positions, and how "dynamic" scaling raises it for contexts past the trained one."""

from __future__ import annotations

from typing import Any

from interns1_local.errors import Unsupported


def base_for(config: dict[str, Any], context_length: int | None = None) -> float:
    """The base at `context_length` tokens; None, or no more than trained, is the base that the model was trained with.

    InternLM's own code, at a text of n tokens: base * (factor * n / trained - (factor - 1)) ** (d / (d - 2)).
    """
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(config.get("rope_theta") or settings.get("rope_theta") or 10000.0)
    kind = str(settings.get("rope_type", settings.get("type", "default")))
    if kind not in ("default", "dynamic"):
        raise Unsupported(f"rope scaling {kind!r} has no reference for this model; default and dynamic have one")
    trained = int(config["max_position_embeddings"])
    if kind == "default" or context_length is None or context_length <= trained:
        return base
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    factor = float(settings.get("factor", 1.0))
    return float(base * (factor * context_length / trained - (factor - 1)) ** (size / (size - 2)))
