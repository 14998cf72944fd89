"""Which of a model's adapters a request has chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from interns1_local.engine.adaptation import WITHOUT, Adaptation
from interns1_local.errors import BadRequest
from interns1_local.store.adapter_names import NO_ADAPTER
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options

MOST_SCALE = 100.0


def adapter_choice(model: StoredModel, options: Mapping[str, Any]) -> Adaptation:
    """By the options in force: `adapter` is a name, "none" or "" the model without; `adapter_scale` how strongly.

    BadRequest, which lists the names, for an adapter that the model does not have.
    """
    name, scale = options.get("adapter"), options.get("adapter_scale", 1.0)
    if not math.isfinite(scale) or abs(scale) > MOST_SCALE:
        raise BadRequest(f"adapter_scale must be a number between -{MOST_SCALE:g} and {MOST_SCALE:g}; it is {scale}")
    if name is not None and name.strip().lower() in ("", NO_ADAPTER):
        return WITHOUT
    if name is None:
        return Adaptation(scale=scale) if model.adapters else Adaptation()
    names = [adapter.name for adapter in model.adapters]
    if name not in names:
        known = f"choose one of {', '.join(names)}, or {NO_ADAPTER!r}" if names else "it was made without any"
        raise BadRequest(f"{model.name.short} has no adapter {name!r}: {known}")
    return Adaptation(names.index(name), scale)


def adapter_asked(model: StoredModel, options: Mapping[str, Any]) -> Adaptation:
    """The same by a request's own options, over the Modelfile's."""
    return adapter_choice(model, {**check_options(model.params), **check_options(options)})
