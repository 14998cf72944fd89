"""InternLM2 and its reward head in torch, from the published formulas: RMS norm, rotary grouped attention, SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interns1_local.errors import LoadError
from interns1_local.reference.rope import base_for
from interns1_local.reference.weights import CheckpointTensors, Filled

Weights = dict[str, torch.Tensor]
Arrays = Mapping[str, NDArray[Any]]

_LAYER = (
    *("attention_norm", "attention.wqkv", "attention.wo", "ffn_norm"),
    *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
)


class InternLM2:
    """A checkpoint's weights in memory, as `dtype`; every step is calculated in float32."""

    def __init__(
        self, folder: Path, config: dict[str, Any], dtype: torch.dtype, context_length: int | None = None
    ) -> None:
        self.config = config
        self.rope_base = base_for(config, context_length)
        self.is_reward = "InternLM2ForRewardModel" in (config.get("architectures") or [])
        tensors = CheckpointTensors(folder, config)
        try:
            self.weights, rounded = _read_all(tensors, self._names(), dtype)
        finally:
            tensors.close()
        self.filled = Filled(len(self.weights), rounded)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> torch.Tensor:
        """float32 [len(ids), vocabulary]."""
        head = self.weights.get("output.weight", self.weights["model.tok_embeddings.weight"])
        return hidden_states(self.weights, self.config, ids, self.rope_base) @ head.float().T

    @torch.no_grad()
    def state_and_score(self, ids: list[int]) -> tuple[torch.Tensor, float]:
        """The normalized hidden state [hidden] at the last of `ids`, the reward token, and the score there."""
        state = hidden_states(self.weights, self.config, ids, self.rope_base)[-1]
        return state, float(state @ self.weights["v_head.weight"][0].float())

    def _names(self) -> list[str]:
        layers = range(self.config["num_hidden_layers"])
        names = [f"model.layers.{layer}.{part}.weight" for layer in layers for part in _LAYER]
        names += ["model.tok_embeddings.weight", "model.norm.weight"]
        if self.is_reward:
            return [*names, "v_head.weight"]
        return names if self.config.get("tie_word_embeddings") else [*names, "output.weight"]


def _read_all(tensors: CheckpointTensors, names: list[str], dtype: torch.dtype) -> tuple[Weights, int]:
    weights: Weights = {}
    rounded = 0
    for name in names:
        values = tensors.read(name)
        weights[name] = values.to(dtype)
        rounded += not torch.equal(weights[name].float(), values.float())
    strange = sorted(set(tensors.names) - set(names) - {"output.weight"})
    if strange:
        raise LoadError(f"{tensors.folder} has {strange[0]}, which InternLM2 does not have; is it another model?")
    return weights, rounded


def hidden_states(weights: Weights, config: dict[str, Any], ids: list[int], rope_base: float) -> torch.Tensor:
    """The normalized hidden state at every position."""
    x = weights["model.tok_embeddings.weight"][torch.tensor(ids)].float()
    for layer in range(config["num_hidden_layers"]):
        part = {
            name.removeprefix(f"model.layers.{layer}."): value.float()
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = x + _attention(part, config, _rms_norm(x, part["attention_norm.weight"], config), rope_base)
        y = _rms_norm(x, part["ffn_norm.weight"], config)
        gate = torch.nn.functional.silu(y @ part["feed_forward.w1.weight"].T)
        x = x + (gate * (y @ part["feed_forward.w3.weight"].T)) @ part["feed_forward.w2.weight"].T
    return _rms_norm(x, weights["model.norm.weight"].float(), config)


def logits(weights: Arrays, config: dict[str, Any], ids: list[int], rope_base: float) -> NDArray[np.float32]:
    """Logits [len(ids), vocabulary] of a model whose weights are given as arrays."""
    tensors = _tensors(weights)
    head = tensors.get("output.weight", tensors["model.tok_embeddings.weight"])
    out: NDArray[np.float32] = (hidden_states(tensors, config, ids, rope_base) @ head.T).numpy()
    return out


def reward(weights: Arrays, config: dict[str, Any], ids: list[int]) -> float:
    """The score of a conversation: the head's value at the reward token, which ends it."""
    if ids[-1] != config["reward_token_id"]:
        ids = [*ids, config["reward_token_id"]]
    tensors = _tensors(weights)
    return float(hidden_states(tensors, config, ids, config["rope_theta"])[-1] @ tensors["v_head.weight"][0])


def _tensors(weights: Arrays) -> Weights:
    return {name: torch.tensor(value) for name, value in weights.items()}


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])


def _attention(part: Weights, config: dict[str, Any], x: torch.Tensor, rope_base: float) -> torch.Tensor:
    n, groups = len(x), config["num_key_value_heads"]
    size = config["hidden_size"] // config["num_attention_heads"]
    queries = config["num_attention_heads"] // groups
    qkv = (x @ part["attention.wqkv.weight"].T).view(n, groups, queries + 2, size)
    q, k, v = qkv[:, :, :queries], qkv[:, :, queries], qkv[:, :, queries + 1]
    q, k = _rotate(q.flatten(1, 2), rope_base), _rotate(k, rope_base)
    k, v = k.repeat_interleave(queries, 1), v.repeat_interleave(queries, 1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) / size**0.5
    scores = scores.masked_fill(torch.triu(torch.ones(n, n, dtype=torch.bool), 1), float("-inf"))
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v).flatten(1) @ part["attention.wo.weight"].T


def _rotate(x: torch.Tensor, rope_base: float) -> torch.Tensor:
    """Each value of the first half of a head turns with its partner in the second half."""
    size = x.shape[-1]
    speeds = rope_base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(len(x), dtype=torch.float64), speeds)
    cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
    a, b = x[..., : size // 2], x[..., size // 2 :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
