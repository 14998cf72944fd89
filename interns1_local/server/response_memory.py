"""Responses that a later request may continue: kept in memory, for an hour, within bounds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interns1_local.chat.message import Message, Text
from interns1_local.errors import NotFound

KEPT_SECONDS = 3600.0
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    """The conversation up to the answer, and the response as it was sent."""

    messages: tuple[Message, ...]
    response: dict[str, Any]

    @property
    def n_bytes(self) -> int:
        """About as much as it takes: texts and pictures."""
        parts = [part for message in self.messages for part in message.content]
        return 1000 + sum(len(part.text) if isinstance(part, Text) else part.n_bytes for part in parts)


class ResponseMemory:
    """The oldest leave first, by age and by size."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Stored]] = OrderedDict()
        self._n_bytes = 0

    def add(self, response_id: str, stored: Stored) -> None:
        self._kept[response_id] = (self._clock(), stored)
        self._n_bytes += stored.n_bytes
        while self._kept and (self._n_bytes > MAX_BYTES or self._is_old(next(iter(self._kept)))):
            self._drop(next(iter(self._kept)))

    def get(self, response_id: str) -> Stored:
        if response_id not in self._kept or self._is_old(response_id):
            raise NotFound(
                f"previous response '{response_id}' not found: responses are kept for an hour, in memory; "
                "send the conversation as input instead"
            )
        return self._kept[response_id][1]

    def delete(self, response_id: str) -> None:
        self.get(response_id)
        self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        self._n_bytes -= self._kept.pop(response_id)[1].n_bytes

    def _is_old(self, response_id: str) -> bool:
        return self._clock() - self._kept[response_id][0] > KEPT_SECONDS
