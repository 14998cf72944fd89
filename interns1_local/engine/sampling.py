"""How a token is chosen: the request's parameters, and what is done to a row of logits before C chooses.

This file never imports llama_cpp, so the server may use `SamplingParams` too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.errors import BadRequest

MAX_LOGPROBS = 20
# OpenAI's bias that means never, and with the other sign always.
MAX_BIAS = 100.0
MAX_SEED = 2**32 - 2  # llama.cpp reads 2**32 - 1 as "choose one"
# Requests at work from which on a GPU chooses the tokens of those that come, with `backend_sampling` auto.
MANY = 4

_REAL_NUMBERS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)

Logits = npt.NDArray[np.float32]


def least_for_graph(backend_sampling: str, n_parallel: int, output_on_gpu: bool) -> int | None:
    """How many requests must be at work for llama.cpp's graph to choose the tokens of a new one; None: never."""
    if backend_sampling == "on":
        return 1
    return MANY if backend_sampling == "auto" and n_parallel >= MANY and output_on_gpu else None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Ollama's sampling options and defaults. `logprobs` is how many alternatives to report (None: no report)."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    logprobs: int | None = None
    ignore_eos: bool = False
    min_tokens: int = 0

    def __post_init__(self) -> None:
        for name in _REAL_NUMBERS:
            if not np.isfinite(getattr(self, name)):
                raise BadRequest(f"{name} must be a finite number; it is {getattr(self, name)}")
        if self.repeat_penalty <= 0:
            raise BadRequest(f"repeat_penalty must be above 0 (1 changes nothing); it is {self.repeat_penalty}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise BadRequest(f"logprobs must be between 0 and {MAX_LOGPROBS}; it is {self.logprobs}")
        for token, bias in self.logit_bias.items():
            if not np.isfinite(bias):
                raise BadRequest(f"logit_bias must be finite numbers; that of token {token} is {bias}")

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0

    @property
    def penalizes(self) -> bool:
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        )

    @property
    def moves_logits(self) -> bool:
        """Whether any token may become more or less likely than the model has it."""
        return self.penalizes or bool(self.logit_bias)

    def forbids_ends(self, n_output: int) -> bool:
        """Whether the token after `n_output` chosen ones may not be an end."""
        return self.ignore_eos or n_output < self.min_tokens

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"logit_bias": {str(token): bias for token, bias in self.logit_bias.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SamplingParams:
        bias = {int(token): float(value) for token, value in values.get("logit_bias", {}).items()}
        return cls(**{**values, "logit_bias": bias})


@dataclass(frozen=True, slots=True)
class RankedToken:
    """A token id with its log-probability in the model's own, unchanged distribution."""

    id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The chosen token's log-probability and the most likely alternatives, best first."""

    chosen: RankedToken
    top: tuple[RankedToken, ...]


def apply_penalties(row: Logits, params: SamplingParams, history: Sequence[int], n_ctx: int) -> None:
    """Change `row` in place as llama.cpp's penalty sampler would. Ids below 0 in `history` are places of images."""
    if not params.penalizes:
        return
    window = params.repeat_last_n if params.repeat_last_n > 0 else n_ctx
    recent = np.asarray(history[-window:], dtype=np.int64)
    ids, counts = np.unique(recent[(recent >= 0) & (recent < len(row))], return_counts=True)
    if not len(ids):
        return
    values = row[ids]
    values = np.where(values <= 0, values * params.repeat_penalty, values / params.repeat_penalty)
    row[ids] = values - counts * params.frequency_penalty - params.presence_penalty


def check_bias(params: SamplingParams, n_tokens: int) -> None:
    """Raises BadRequest when the logit bias names a token that a vocabulary of `n_tokens` has not."""
    unknown = [token for token in params.logit_bias if not 0 <= token < n_tokens]
    if unknown:
        raise BadRequest(f"logit_bias names token {unknown[0]}; this model's tokens are 0 to {n_tokens - 1}")


def apply_bias(row: Logits, params: SamplingParams, eog_ids: npt.NDArray[np.int64], n_output: int = 0) -> None:
    """Add the request's logit bias, the lowest of which forbids; forbid end-of-generation tokens while they are to
    be ignored, with `n_output` tokens chosen so far."""
    for token, bias in params.logit_bias.items():
        if 0 <= token < len(row):
            row[token] = -np.inf if bias <= -MAX_BIAS else row[token] + bias
    if params.forbids_ends(n_output):
        row[eog_ids] = -np.inf


def log_probabilities(row: Logits) -> npt.NDArray[np.float64]:
    """Log-softmax over the whole vocabulary."""
    shifted = row.astype(np.float64) - float(row.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def describe(logprobs: npt.NDArray[np.float64], token: int, n_top: int) -> SampledToken:
    """The chosen token and the `n_top` most likely ones."""
    top: tuple[RankedToken, ...] = ()
    if n_top:
        best = np.argpartition(-logprobs, n_top - 1)[:n_top] if n_top < len(logprobs) else np.arange(len(logprobs))
        ordered = best[np.argsort(-logprobs[best], kind="stable")]
        top = tuple(RankedToken(int(i), float(logprobs[i])) for i in ordered)
    return SampledToken(RankedToken(token, float(logprobs[token])), top)
