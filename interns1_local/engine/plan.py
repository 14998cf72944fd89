"""What the scheduler has decided for one step, and what it has for the cache to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from interns1_local.engine.sequence import Keys, PlacedTile, Sequence


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a slot's places from `start` on."""

    slot: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Let `target` have the first `length` places of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, eq=False, slots=True)
class Store:
    """Write what `slot` holds to a file, as it is about to leave the cache."""

    slot: int
    keys: Keys


Operation = Remove | Share | Store


@dataclass(eq=False, slots=True)
class Span:
    """Places [start, stop) of a sequence, to be computed in this step; `samples` when a token follows it.

    The last of them may be `drafted`: tokens that the sequence does not have yet.
    """

    sequence: Sequence
    start: int
    stop: int
    tile: PlacedTile | None = None
    drafted: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        return self.stop - len(self.drafted) == len(self.sequence.keys)

    @property
    def ids(self) -> list[int]:
        return [*self.sequence.keys[self.start : self.stop - len(self.drafted)], *self.drafted]


@dataclass(slots=True)
class Plan:
    """One step: cache operations in order, then one call with `spans`, then one with `image`."""

    operations: list[Operation] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    image: Span | None = None
    admitted: list[Sequence] = field(default_factory=list)
    # Tokens of prompts with logits, besides the one of each sequence that a token follows.
    n_scored: int = 0
