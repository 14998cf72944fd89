"""How many prompt tokens may join a step of decodes so that it stays short: learned from steps that were taken."""

from __future__ import annotations

import math

FIRST_CHUNK = 128
SMALLEST_CHUNK = 32


class Pace:
    """The time of a step is that of a decode, which is about the same however many take part, and that of the tokens
    of prompts in it."""

    def __init__(self, n_batch: int, target_seconds: float) -> None:
        self._n_batch = n_batch
        self._target = target_seconds
        self._decode_seconds: float | None = None
        self._seconds_per_token: float | None = None

    def observe_decode(self, seconds: float) -> None:
        """A call with nothing but decodes took `seconds`."""
        self._decode_seconds = _mix(self._decode_seconds, seconds)

    def observe_prompt(self, n_tokens: int, seconds: float) -> None:
        """A call with `n_tokens`, most of them of prompts, took `seconds`. Few say nothing about the cost of one."""
        if n_tokens >= SMALLEST_CHUNK:
            self._seconds_per_token = _mix(self._seconds_per_token, seconds / n_tokens)

    @property
    def prefill_budget(self) -> int:
        """The power of two next to what the last known cost allows, so that the shapes of calls stay few."""
        if self._seconds_per_token is None:
            # A prompt's token costs less than a decode's: where those are fast, more can be tried at first.
            quick = self._decode_seconds is None or self._decode_seconds * SMALLEST_CHUNK <= self._target
            return min(self._n_batch, FIRST_CHUNK if quick else SMALLEST_CHUNK)
        wanted = self._target / max(self._seconds_per_token, 1e-9)
        return min(self._n_batch, max(SMALLEST_CHUNK, 1 << round(math.log2(wanted))))


def _mix(before: float | None, measured: float) -> float:
    """The mean over the last few. What has become slower counts for more: a step too long is worse than too short."""
    if before is None:
        return measured
    weight = 0.6 if measured > before else 0.3
    return before + weight * (measured - before)
