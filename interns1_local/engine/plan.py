"""What the scheduler has decided for one step, and what it has for the cache to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from interns1_local.engine.sequence import Keys, PlacedTile, Sequence


@dataclass(frozen=True, slots=True)
class Limits:
    """`n_cells` in the cache, `n_slots` sequence numbers, `max_running` sequences at work, `n_batch` tokens a call."""

    n_cells: int
    n_slots: int
    max_running: int
    n_batch: int
    share_prefixes: bool = True
    # Tokens of a call that may have logits; 0: as many as the call has tokens.
    n_outputs: int = 0
    # Finished sequences of at least this length are stored before they leave the cache; 0: none is.
    stored_from: int = 0
    # Whether what is computed can be moved to other positions.
    can_shift: bool = False
    # From so many rows on a call has either decodes or prompts; 0: there is no such number.
    tile_rows: int = 0


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


@dataclass(frozen=True, slots=True)
class Cut:
    """Forget a slot's places [start, stop), and let those after it take their place."""

    slot: int
    start: int
    stop: int


Operation = Remove | Share | Store | Cut


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
    def decodes(self) -> bool:
        """Whether it is one token, and what was drafted after it."""
        return self.stop - self.start - len(self.drafted) == 1

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
    # Whether a sequence at work is left out because its next tile is not ready.
    awaits_tile: bool = False
    # Tokens of prompts with logits, besides the one of each sequence that a token follows.
    n_scored: int = 0

    @property
    def computes(self) -> bool:
        return bool(self.spans) or self.image is not None

    @property
    def root(self) -> bytes:
        """Which adapter computes this step, see Sequence."""
        first = self.spans[0] if self.spans else self.image
        return b"" if first is None else first.sequence.root
