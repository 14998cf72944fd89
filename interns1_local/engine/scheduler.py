"""Who gets which tokens in the next step. Pure: it decides and keeps the books; the engine acts.

Decodes go first, then chunks of prompts within a budget, in order of arrival. A tile is a call of its own.
When the cache is full, finished sequences leave it first; then the latest to arrive starts over later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from interns1_local.engine.prefix_cache import SHORTEST_SHARED, CachedPrefix, CellPool, PrefixCache, common_prefix
from interns1_local.engine.sequence import Cells, Keys, PlacedTile, Sequence

# Cells an admitted sequence should find free for its answer, so that it is not stopped at once.
ANSWER_RESERVE = 64

# A prompt waits for another that is being computed if they have at least this much more in common.
WORTH_WAITING = 64

FIRST_CHUNK = 128
SMALLEST_CHUNK = 32


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


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget a slot's cells."""

    slot: int


@dataclass(frozen=True, slots=True)
class Share:
    """Let `target` have the first `length` places of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, eq=False, slots=True)
class Span:
    """Places [start, stop) of a sequence, to be computed in this step; `samples` when a token follows it."""

    sequence: Sequence
    start: int
    stop: int
    cells: Cells
    tile: PlacedTile | None = None

    @property
    def samples(self) -> bool:
        return self.stop == len(self.sequence.keys)


@dataclass(slots=True)
class Plan:
    """One step: cache operations in order, then one call with `spans`, then one with `image`."""

    operations: list[Remove | Share] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    image: Span | None = None
    admitted: list[Sequence] = field(default_factory=list)
    # Tokens of prompts with logits, besides the one of each sequence that a token follows.
    n_scored: int = 0


class Scheduler:
    """Sequences that wait, sequences at work, and the cells of both."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.pool = CellPool(limits.n_cells)
        self.cache = PrefixCache()
        self._free_slots = list(range(limits.n_slots - 1, -1, -1))
        self._operations: list[Remove | Share] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self, prefill_budget: int) -> Plan:
        """The next step. While others decode, at most `prefill_budget` tokens of prompts join them."""
        plan = Plan()
        while self._admit_next(plan):
            pass
        self._plan_step(plan, prefill_budget)
        while self.running and not plan.spans and plan.image is None and self.preempt_latest():
            self._plan_step(plan, prefill_budget)
        plan.operations = self.take_operations()
        return plan

    def _plan_step(self, plan: Plan, prefill_budget: int) -> None:
        room = self.limits.n_batch
        for sequence in [s for s in self.running if s.n_remaining == 1 and s.tile_at(s.n_computed) is None]:
            if sequence in self.running and self._room_to_decode(sequence):
                plan.spans.append(self._span(sequence, sequence.n_computed + 1))
                room -= 1
        if plan.spans:
            room = min(room, max(1, prefill_budget))
        decoding = {span.sequence.id for span in plan.spans}
        for sequence in self.running:
            if sequence.id not in decoding:
                room -= self._plan_prefill(plan, sequence, room)

    def complete(self, span: Span) -> None:
        """The places of `span` are in the cache."""
        span.sequence.cells.append(span.cells)
        span.sequence.n_computed = span.stop

    def roll_back(self, span: Span) -> None:
        """The places of `span` did not get into the cache."""
        self.pool.release(span.cells)

    def finish(self, sequence: Sequence, keep: bool = True) -> None:
        """Take `sequence` out; what was computed of it may serve later prompts if `keep`."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        if sequence not in self.running:
            return
        self.running.remove(sequence)
        if keep and self.limits.share_prefixes and sequence.n_computed >= SHORTEST_SHARED:
            keys = np.array(sequence.keys[: sequence.n_computed], np.int64)
            for entry in self.cache.insert(sequence.slot, keys, sequence.all_cells()):
                self._drop(entry)
        else:
            self._give_back(sequence)

    def take_operations(self) -> list[Remove | Share]:
        """Cache operations that do not wait for a step, such as after `finish`."""
        operations, self._operations = self._operations, []
        return operations

    def _admit_next(self, plan: Plan) -> bool:
        if not self.waiting or len(self.running) >= self.limits.max_running:
            return False
        sequence = self.waiting[0]
        keys = np.array(sequence.keys, np.int64)
        source, cells, length = self._shared_prefix(keys, sequence.scores_prompt)
        if not sequence.scores_prompt and self._will_share_more(keys, length):
            return False
        reserve = min(ANSWER_RESERVE, max(1, sequence.max_tokens - sequence.n_output))
        need = min(len(keys) - length + reserve, self.limits.n_cells - length)
        if self.running and need > self._attainable(cells):
            return False
        slot = self._take_slot(spare=source)
        if length:
            self.pool.share(cells)
            self._operations.append(Share(source, slot, length))
            sequence.cells = [cells]
        self.waiting.popleft()
        sequence.slot, sequence.n_computed = slot, length
        if sequence.admitted_at is None:
            sequence.cached_tokens = length
            plan.admitted.append(sequence)
        self.running.append(sequence)
        return True

    def _shared_prefix(self, keys: Keys, scored: bool) -> tuple[int, Cells, int]:
        """(slot, cells, length) of the best common beginning. What needs logits is computed anew: the last place,
        or in a prompt that is `scored` all."""
        nothing = -1, np.empty(0, np.int64), 0
        if scored or not self.limits.share_prefixes:
            return nothing
        entry, length = self.cache.longest(keys)
        slot, cells = (entry.slot, entry.cells) if entry else nothing[:2]
        for other in self.running:
            common = common_prefix(np.array(other.keys[: other.n_computed], np.int64), keys)
            if common > length:
                slot, cells, length = other.slot, other.all_cells(), common
        length = min(length, len(keys) - 1)
        return (slot, cells[:length], length) if length >= SHORTEST_SHARED else nothing

    def _attainable(self, shared: Cells) -> int:
        """Cells that a new sequence could get if all finished sequences left and those at work got what they need."""
        used = np.zeros(self.limits.n_cells, bool)
        used[shared] = True
        for sequence in self.running:
            used[sequence.all_cells()] = True
        promised = sum(sequence.n_remaining for sequence in self.running)
        return self.limits.n_cells - int(used.sum()) - promised

    def _will_share_more(self, keys: Keys, length: int) -> bool:
        """Whether a prompt at work is about to compute much more of the same beginning: then waiting is faster."""
        if not self.limits.share_prefixes:
            return False
        return any(
            other.n_remaining > 1
            and common_prefix(np.array(other.keys, np.int64), keys) >= max(length, other.n_computed) + WORTH_WAITING
            for other in self.running
        )

    def _plan_prefill(self, plan: Plan, sequence: Sequence, room: int) -> int:
        """Plan the next run of a prompt; returns the tokens it takes of the batch's room."""
        start = sequence.n_computed
        tile = sequence.tile_at(start)
        if tile is not None:
            stop = min(tile.stop, start + self.limits.n_batch)
            if plan.image is None and self._evict_for(stop - start):
                plan.image = self._span(sequence, stop, tile)
            return 0
        stop = min(sequence.text_end(start), start + room)
        scored = sequence.scores_prompt and start < sequence.n_prompt
        if scored and self.limits.n_outputs:
            stop = min(stop, start + self.limits.n_outputs - len(self.running) - plan.n_scored)
        if stop <= start or not self._evict_for(stop - start):
            return 0
        plan.n_scored += (stop - start) * scored
        plan.spans.append(self._span(sequence, stop))
        return stop - start

    def _span(self, sequence: Sequence, stop: int, tile: PlacedTile | None = None) -> Span:
        return Span(sequence, sequence.n_computed, stop, self.pool.take(stop - sequence.n_computed), tile)

    def _room_to_decode(self, sequence: Sequence) -> bool:
        """A cell for the next token, if need be at the cost of later arrivals. False when `sequence` has to leave."""
        while not self._evict_for(1):
            leaves = self.running[-1] is sequence
            if not self.preempt_latest() or leaves:
                return False
        return True

    def _evict_for(self, count: int) -> bool:
        """Whether `count` cells are free, after finished sequences have left as needed."""
        while self.pool.n_free < count:
            entry = self.cache.evict()
            if entry is None:
                return False
            self._drop(entry)
        return True

    def preempt_latest(self) -> bool:
        """Send the latest arrival back to wait; it will be computed again. False when it is the only one at work."""
        if len(self.running) < 2:
            return False
        victim = self.running.pop()
        self._give_back(victim)
        self.waiting.appendleft(victim)
        return True

    def _take_slot(self, spare: int) -> int:
        """A free slot; a finished sequence other than `spare` makes place if there is none."""
        if not self._free_slots:
            entry = self.cache.evict(spare)
            assert entry is not None, "there are at least two more slots than sequences at work"
            self._drop(entry)
        return self._free_slots.pop()

    def _drop(self, entry: CachedPrefix) -> None:
        self.pool.release(entry.cells)
        self._free(entry.slot)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.release(sequence.all_cells())
        self._free(sequence.slot)
        sequence.slot, sequence.cells, sequence.n_computed = -1, [], 0

    def _free(self, slot: int) -> None:
        self._free_slots.insert(0, slot)
        self._operations.append(Remove(slot))


class Pace:
    """How many prompt tokens may join a step of decodes so that it stays short: learned from steps that were taken."""

    def __init__(self, n_batch: int, target_seconds: float) -> None:
        self._n_batch = n_batch
        self._target = target_seconds
        self._seconds_per_token: float | None = None

    def observe(self, n_tokens: int, seconds: float) -> None:
        """A call with `n_tokens` took `seconds`. Small ones say nothing about the cost of a token."""
        if n_tokens < SMALLEST_CHUNK:
            return
        measured = seconds / n_tokens
        before = self._seconds_per_token
        self._seconds_per_token = measured if before is None else 0.7 * before + 0.3 * measured

    @property
    def prefill_budget(self) -> int:
        """A power of two, so that the shapes of calls stay few."""
        if self._seconds_per_token is None:
            return min(self._n_batch, FIRST_CHUNK)
        wanted = max(int(self._target / max(self._seconds_per_token, 1e-9)), SMALLEST_CHUNK)
        return min(self._n_batch, 1 << (wanted.bit_length() - 1))
