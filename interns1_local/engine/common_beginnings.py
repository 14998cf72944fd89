"""What prompts have in common with those that are being computed: each pair is compared once."""

from __future__ import annotations

from collections.abc import Iterable

from interns1_local.engine.prefix_cache import common_prefix
from interns1_local.engine.sequence import Sequence

# A prompt waits for another that is being computed if they have at least this much more in common.
WORTH_WAITING = 64


class CommonBeginnings:
    """The lengths, by the arrivals of both."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[int, int], int] = {}

    def to_come(self, running: Iterable[Sequence], sequence: Sequence, length: int) -> int:
        """What a prompt at work, which is about to compute much more of the same beginning than `length`, has in
        common with `sequence`: then waiting is faster. 0: there is none."""
        most = 0
        for other in running:
            if other.n_remaining <= 1:
                continue
            pair = other.arrival, sequence.arrival
            common = self._lengths.get(pair)
            if common is None:
                common = self._lengths[pair] = common_prefix(other.key_array(), sequence.key_array())
            if common >= max(length, other.n_computed) + WORTH_WAITING:
                most = max(most, common)
        return most

    def forget(self, sequence: Sequence) -> None:
        if self._lengths:
            self._lengths = {pair: n for pair, n in self._lengths.items() if sequence.arrival not in pair}

    def clear(self) -> None:
        """Sequences have changed."""
        self._lengths.clear()
