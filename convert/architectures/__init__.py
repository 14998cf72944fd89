"""Architectures: one module a family. A module has `plan_text(checkpoint)` and `plan_vision(checkpoint)`."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from convert.checkpoint import Checkpoint
from convert.errors import UnsupportedArchitecture
from convert.plan import FilePlan

# The name in config.json's "architectures" -> module of this folder.
ARCHITECTURES = {
    "InternS1ForConditionalGeneration": "interns1",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM2ForRewardModel": "internlm2_reward",
    "InternLM3ForCausalLM": "internlm3",
}
# For checkpoints without "architectures": "model_type" -> module.
MODEL_TYPES = {
    "interns1": "interns1",
    "intern_s1": "interns1",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "internlm2": "internlm2",
    "internlm3": "internlm3",
}


class Architecture(Protocol):
    """What a module of this folder offers. `plan_vision` gives None when there is no vision tower."""

    def plan_text(self, checkpoint: Checkpoint) -> FilePlan: ...

    def plan_vision(self, checkpoint: Checkpoint) -> FilePlan | None: ...


def find(config: dict[str, Any]) -> Architecture:
    """The module for a config.json."""
    names = config.get("architectures") or []
    module = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if module is None and not names:
        module = MODEL_TYPES.get(str(config.get("model_type")))
    if module is None:
        given = ", ".join(map(str, names)) or f"model_type {config.get('model_type')!r}"
        raise UnsupportedArchitecture(f"{given} cannot be converted. Known: {', '.join(ARCHITECTURES)}.")
    return cast(Architecture, importlib.import_module(f"convert.architectures.{module}"))
