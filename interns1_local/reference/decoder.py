"""Text models as transformers has them: Qwen3 and Qwen3-MoE, alone or inside Intern-S1, and InternLM3 (a Llama)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights

from interns1_local.errors import Unsupported
from interns1_local.reference.rope import base_for
from interns1_local.reference.weights import CheckpointTensors, Filled, Rename, compute_in_float32, fill

# Where Intern-S1 keeps its text model, and where its output matrix, in the releases so far.
TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.")
_NOT_TEXT = ("model.vision_tower.", "model.multi_modal_projector.", "vision_tower.", "multi_modal_projector.")


class Decoder:
    """A text model with a checkpoint's weights; it calculates in float32 whatever type the weights have."""

    def __init__(
        self, folder: Path, config: dict[str, Any], dtype: torch.dtype, context_length: int | None = None
    ) -> None:
        text = config.get("text_config") or config
        self.model = build(lambda: _empty(text, config, context_length), dtype)
        tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
        self.filled = load(self.model, folder, config, lambda name: text_name(name, tied))
        compute_in_float32(self.model)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        """float32 [len(ids), vocabulary]."""
        logits: torch.Tensor = self.model(input_ids=torch.tensor([ids])).logits[0]
        return logits.float()


def build(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A module with memory for its weights, which nobody has written to yet."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = make()
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def load(model: torch.nn.Module, folder: Path, config: dict[str, Any], rename: Rename) -> Filled:
    """Fill `model` from the shards of `folder`."""
    tensors = CheckpointTensors(folder, config)
    try:
        return fill(model, tensors, rename)
    finally:
        tensors.close()


def text_name(stored: str, tied: bool) -> str | None:
    """A tensor's name in transformers' text model; None for what belongs to the vision tower."""
    if stored.startswith(_NOT_TEXT):
        return None
    if stored in ("lm_head.weight", "language_model.lm_head.weight"):
        return None if tied else "lm_head.weight"
    for prefix in TEXT_PREFIXES:
        if stored.startswith(prefix):
            return "model." + stored.removeprefix(prefix)
    return stored if stored.startswith("model.") else f"model.{stored}"


def text_config(text: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """A text model's settings; what only stands at the top of config.json holds for it too."""
    tied = text.get("tie_word_embeddings", top.get("tie_word_embeddings", False))
    left_out = ("architectures", "torch_dtype", "dtype", "quantization_config", "auto_map")
    # transformers moves settings about inside the dicts that it is given.
    kept: dict[str, Any] = json.loads(json.dumps({key: v for key, v in text.items() if key not in left_out}))
    return {**kept, "tie_word_embeddings": bool(tied)}


def _empty(text: dict[str, Any], top: dict[str, Any], context_length: int | None) -> Any:
    kind = str(text.get("model_type"))
    settings = text_config(text, top)
    settings.pop("model_type", None)
    if kind == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings))
    if kind == "qwen3_moe":
        config: Any = transformers.Qwen3MoeConfig(**settings)
        config._experts_implementation = "eager"
        return transformers.Qwen3MoeForCausalLM(config)
    if kind == "internlm3":
        return transformers.LlamaForCausalLM(_llama_config(settings, context_length))
    raise Unsupported(f"the text model {kind!r} has no reference; known are qwen3, qwen3_moe and internlm3")


def _llama_config(settings: dict[str, Any], context_length: int | None) -> Any:
    """InternLM3 is Llama with its own names for the switches of biases."""
    for key in ("bias", "qkv_bias"):
        if settings.pop(key, False):
            raise Unsupported(f"config.json: {key} is true; no released InternLM3 has biases, and none is compared")
    base = base_for(settings, context_length)
    for key in ("rope_scaling", "rope_parameters"):
        settings.pop(key, None)
    return transformers.LlamaConfig(**{**settings, "rope_theta": base})
