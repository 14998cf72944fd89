"""Who gets which tokens in the next step. Pure: it decides and keeps the books; the engine acts.

Decodes go first, then chunks of prompts within a budget, in order of arrival; where they had better not share a call
they take turns. A tile is a call of its own, and beside decodes it takes the place of the chunks of text; until it is
ready, its sequence stands aside. When the cache is full, finished sequences leave it first, each from its end; then the
latest to arrive starts over later.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from interns1_local.engine.adapter_turns import AdapterTurns
from interns1_local.engine.cache_room import CacheRoom
from interns1_local.engine.cell_pool import Cells
from interns1_local.engine.common_beginnings import CommonBeginnings
from interns1_local.engine.plan import Cut, Limits, Operation, Plan, Share, Span
from interns1_local.engine.prefix_cache import SHORTEST_SHARED, common_prefix
from interns1_local.engine.sequence import Keys, PlacedTile, Sequence, Tile

# Cells an admitted sequence should find free for its answer, so that it is not stopped at once.
ANSWER_RESERVE = 64


class Scheduler:
    """Sequences that wait, sequences at work, both in order of arrival, and the cells of these and finished ones."""

    def __init__(
        self,
        limits: Limits,
        can_share: Callable[[int, int], bool] = lambda slot, length: True,
        is_ready: Callable[[Tile], bool] = lambda tile: True,
        turns: AdapterTurns | None = None,
    ) -> None:
        """`can_share(slot, length)` says whether llama.cpp still has all that the first `length` places need;
        `is_ready(tile)` whether the rows of a tile are there; `turns`, where there are adapters, whose step it is."""
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._room = CacheRoom(limits)
        self.pool, self.cache = self._room.pool, self._room.cache
        self._can_share = can_share
        self._is_ready = is_ready
        self._n_arrived = 0
        self._common = CommonBeginnings()
        self._turns = turns
        # Of the steps of prompts and of decodes, where they go apart.
        self._turn_of_prompts = False

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def decoding(self) -> list[Sequence]:
        """All sequences that the next step is for if no prompt is in the way of drafted tokens; else none."""
        crowded = self.waiting and len(self.running) < self.limits.max_running
        group = self._group()
        return [] if crowded or any(s.n_remaining != 1 for s in group) else group

    def _group(self) -> list[Sequence]:
        """Those at work that may share a step: all, but where they have different adapters."""
        return self.running if self._turns is None else self._turns.group(self.running)

    def add(self, sequence: Sequence) -> None:
        self._n_arrived += 1
        sequence.arrival = self._n_arrived
        self.waiting.append(sequence)

    def schedule(self, prefill_budget: int) -> Plan:
        """The next step. While others decode, at most `prefill_budget` tokens of prompts join them."""
        plan = Plan()
        if self.waiting:
            self._admit(plan)
        self._plan_step(plan, prefill_budget)
        while self.running and not plan.computes and self._make_way(plan):
            self._plan_step(plan, prefill_budget)
        if self._turns is not None:
            self._turns.took(plan)
        plan.operations = self._room.take_operations()
        return plan

    def _make_way(self, plan: Plan) -> bool:
        """Whether a step may be found for those with another adapter, or else without the latest arrival."""
        passed = self._turns is not None and self._turns.pass_on(self.running)
        return passed or (not plan.awaits_tile and self.preempt_latest())

    def _plan_step(self, plan: Plan, prefill_budget: int) -> None:
        group = self._group()
        decoding = [sequence for sequence in group if sequence.decodes]
        prompts = [sequence for sequence in group if not sequence.decodes]
        awaited = bool(decoding) or (self._turns is not None and self._turns.others_decode(self.running))
        budget = max(1, prefill_budget) if awaited else self.limits.n_batch
        rows = len(decoding) + min(budget, sum(sequence.n_remaining for sequence in prompts))
        apart = bool(decoding and prompts) and 0 < self.limits.tile_rows <= rows
        self._turn_of_prompts = apart and not self._turn_of_prompts
        if self._turn_of_prompts:
            self._plan_prompts(plan, prompts, budget, beside=True)
        if plan.computes:
            return
        self._plan_decodes(plan, decoding)
        decodes = len(plan.spans)
        if not (apart and decodes):
            room = self.limits.n_batch - decodes
            self._plan_prompts(plan, prompts, min(room, budget), beside=decodes > 0)
        if not prompts:
            self._plan_drafts(plan)

    def _plan_decodes(self, plan: Plan, decoding: list[Sequence]) -> None:
        for sequence in decoding:
            if sequence.slot >= 0 and self._room_to_decode(sequence):
                sequence.cells.append(self.pool.take_one())
                plan.spans.append(Span(sequence, sequence.n_computed, len(sequence.keys)))

    def _plan_prompts(self, plan: Plan, prompts: list[Sequence], room: int, beside: bool) -> None:
        """Plan `room` tokens of prompts, in order of arrival; `beside` decodes a picture stands in for text."""
        decodes = len(plan.spans)
        for sequence in prompts:
            if sequence.slot >= 0 and room > 0:
                alone = beside and len(plan.spans) == decodes
                room -= self._plan_prefill(plan, sequence, room, beside, may_see=alone or not beside)

    def _plan_drafts(self, plan: Plan) -> None:
        """Let drafted tokens join the decodes of `plan`, where they stand in nobody's way."""
        room = min(self.limits.n_outputs or self.limits.n_batch, self.limits.n_batch) - len(plan.spans)
        for span in plan.spans:
            drafted = span.sequence.draft[: max(0, min(room, self.pool.n_free))]
            if drafted:
                span.sequence.cells += self.pool.take(len(drafted))
                span.drafted = drafted
                span.stop += len(drafted)
                room -= len(drafted)

    def complete(self, span: Span, stop: int | None = None) -> None:
        """The places of `span` are in the cache; those from `stop` on were drafted in vain and are not."""
        sequence = span.sequence
        sequence.n_computed = span.stop if stop is None else stop
        if sequence.n_computed < span.stop:
            cells = sequence.cells[sequence.n_computed :]
            del sequence.cells[sequence.n_computed :]
            self._room.give_up(cells)
        if span.start < sequence.n_prompt and self.limits.share_prefixes and not sequence.moved:
            self.cache.hold(sequence.slot, sequence.key_array()[: sequence.n_computed])

    def roll_back(self, span: Span) -> None:
        """The places of `span` did not get into the cache."""
        cells = span.sequence.cells[span.start :]
        if span.sequence.slot >= 0 and cells:
            del span.sequence.cells[span.start :]
            self._room.give_up(cells)

    def finish(self, sequence: Sequence, keep: bool = True) -> None:
        """Take `sequence` out; what was computed of it may serve later prompts if `keep`."""
        self._common.forget(sequence)
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        if sequence not in self.running:
            return
        self.running.remove(sequence)
        keep = keep and self.limits.share_prefixes and not sequence.moved
        if not keep or sequence.n_computed < SHORTEST_SHARED:
            self._give_back(sequence)
            return
        self._room.give_up(sequence.cells[sequence.n_computed :])
        cells = sequence.cells[: sequence.n_computed]
        self.pool.rest(cells)
        self.cache.hold(sequence.slot, sequence.key_array()[: sequence.n_computed])
        for entry in self.cache.finish(sequence.slot, cells):
            self._room.forget(entry)
        sequence.slot, sequence.cells = -1, []

    def cut(self, sequence: Sequence, start: int, stop: int) -> None:
        """Leave the places [start, stop) of a sequence at work out. What follows is moved where its cells are its own;
        else it is computed anew, as a cell has one position for all who share it."""
        keys = sequence.key_array()[: sequence.n_computed]
        for entry in self.cache.by_age():
            if common_prefix(entry.keys(), keys) > stop:
                self._room.store(entry)
                self._room.evict(entry)
        moved = self.limits.can_shift and self.pool.n_own(sequence.cells) >= sequence.n_computed - stop
        if moved:
            self.cache.drop(sequence.slot)
            self._room.give_up(sequence.cells[start:stop])
            del sequence.cells[start:stop]
            self._room.operations.append(Cut(sequence.slot, start, stop))
            sequence.n_computed -= stop - start
        else:
            self._send_back(sequence)
        self._common.clear()
        sequence.cut(start, stop, moved)

    def take_operations(self) -> list[Operation]:
        """Cache operations that do not wait for a step, such as after `finish`."""
        return self._room.take_operations()

    def next_in_line(self) -> list[Sequence]:
        """Those who wait and could begin in the next step, were there cells enough."""
        return self.waiting[: self.limits.max_running - len(self.running)]

    def at_hand(self, sequence: Sequence) -> int:
        """How much of a waiting sequence is in the cache, or will be soon."""
        length = self._shared_prefix(sequence.key_array(), scored=False)[2]
        return max(length, self._common_to_come(sequence, length))

    def reserve(self, count: int) -> int | None:
        """A slot, and `count` free cells for what comes from elsewhere; None where sequences at work need them."""
        if count > self._attainable(()) or not self._room.make_room(count):
            return None
        return self._room.take_slot()

    def adopt(self, slot: int, keys: Keys) -> None:
        """What comes from elsewhere is in the reserved slot: a finished sequence like others."""
        cells = self.pool.take(len(keys))
        self.pool.rest(cells)
        self.cache.hold(slot, keys)
        for entry in self.cache.finish(slot, cells):
            self._room.forget(entry)
        if (adopted := self.cache.get(slot)) is not None:
            adopted.stored = True

    def decline(self, slot: int) -> None:
        """Nothing came to the reserved slot."""
        self._room.free(slot)

    def _admit(self, plan: Plan) -> None:
        """Let those who wait begin, in order of arrival. Who waits for a beginning that another is computing does not
        hold up others, for whom its place is not free, however."""
        kept_places = kept_cells = 0
        for sequence in tuple(self.waiting):
            if len(self.running) + kept_places >= self.limits.max_running:
                return
            keys = sequence.key_array()
            source, cells, length = self._shared_prefix(keys, sequence.scores_prompt)
            coming = 0 if sequence.scores_prompt else self._common_to_come(sequence, length)
            reserve = min(ANSWER_RESERVE, max(1, sequence.max_tokens - sequence.n_output))
            need = min(len(keys) - max(length, coming) + reserve, self.limits.n_cells - length)
            if coming:
                kept_places += 1
                kept_cells += need
                continue
            if self.running and need + kept_cells > self._attainable(cells):
                return
            self._begin(plan, sequence, source, cells, length)

    def _begin(self, plan: Plan, sequence: Sequence, source: int, cells: Cells, length: int) -> None:
        slot = self._room.take_slot(spare=source)
        if slot is None:
            # The only slot to be had is the source itself.
            slot, length = self._room.take_slot(), 0
        assert slot is not None, "there are at least as many slots as sequences at work"
        sequence.cells = []
        if length:
            self.pool.share(cells)
            self._room.operations.append(Share(source, slot, length))
            sequence.cells = [int(cell) for cell in cells]
            self.cache.hold(slot, sequence.key_array()[:length])
        self.waiting.remove(sequence)
        sequence.slot, sequence.n_computed = slot, length
        if sequence.admitted_at is None:
            sequence.cached_tokens = length
            plan.admitted.append(sequence)
        insort(self.running, sequence, key=attrgetter("arrival"))

    def _shared_prefix(self, keys: Keys, scored: bool) -> tuple[int, Cells, int]:
        """(slot, cells, length) of the best common beginning. What needs logits is computed anew: the last place,
        or in a prompt that is `scored` all."""
        if scored or not self.limits.share_prefixes:
            return -1, (), 0
        length, slots = self.cache.longest(keys)
        length = min(length, len(keys) - 1)
        if length < SHORTEST_SHARED:
            return -1, (), 0
        slot = next((slot for slot in slots if self._can_share(slot, length)), None)
        if slot is None:
            return -1, (), 0
        entry = self.cache.get(slot)
        assert entry is not None
        if entry.cells is not None:
            return slot, entry.cells[:length], length
        return slot, next(other for other in self.running if other.slot == slot).cells[:length], length

    def _attainable(self, shared: Cells) -> int:
        """Cells that a new sequence could get if all finished sequences left and those at work got what they need."""
        promised = sum(sequence.n_remaining for sequence in self.running)
        idle = self.pool.n_idle(shared) if len(shared) else 0
        return self.limits.n_cells - self.pool.n_busy - idle - promised

    def _common_to_come(self, sequence: Sequence, length: int) -> int:
        return self._common.to_come(self.running, sequence, length) if self.limits.share_prefixes else 0

    def _plan_prefill(self, plan: Plan, sequence: Sequence, room: int, beside: bool, may_see: bool) -> int:
        """Plan the next run of a prompt, of a picture if it `may_see`; returns the tokens that it takes of the room."""
        start = sequence.n_computed
        tile = sequence.tile_at(start)
        if tile is not None:
            if not self._is_ready(tile.tile):
                plan.awaits_tile = True
                return 0
            if plan.image is not None or not may_see:
                return 0
            stop = min(tile.stop, start + (room if beside else self.limits.n_batch))
            if not self._room.make_room(stop - start):
                return 0
            plan.image = self._span(sequence, stop, tile)
            return room if beside else 0
        stop = min(sequence.text_end(start), start + room)
        scored = sequence.scores_prompt and start < sequence.n_prompt
        if scored and self.limits.n_outputs:
            stop = min(stop, start + self.limits.n_outputs - len(self.running) - plan.n_scored)
        if stop <= start or not self._room.make_room(stop - start):
            return 0
        plan.n_scored += (stop - start) * scored
        plan.spans.append(self._span(sequence, stop))
        return stop - start

    def _span(self, sequence: Sequence, stop: int, tile: PlacedTile | None = None) -> Span:
        sequence.cells += self.pool.take(stop - sequence.n_computed)
        return Span(sequence, sequence.n_computed, stop, tile)

    def _room_to_decode(self, sequence: Sequence) -> bool:
        """A cell for the next token, if need be at the cost of later arrivals. False when `sequence` has to leave."""
        while not self._room.make_room(1):
            leaves = self.running[-1] is sequence
            if not self.preempt_latest() or leaves:
                return False
        return True

    def preempt_latest(self) -> bool:
        """Send the latest arrival back to wait; it will be computed again. False when it is the only one at work."""
        if len(self.running) < 2:
            return False
        self._send_back(self.running[-1])
        return True

    def _send_back(self, sequence: Sequence) -> None:
        """Let a sequence at work wait again; nothing of it stays computed."""
        self.running.remove(sequence)
        self._give_back(sequence)
        insort(self.waiting, sequence, key=attrgetter("arrival"))

    def _give_back(self, sequence: Sequence) -> None:
        self.cache.drop(sequence.slot)
        self._room.give_up(sequence.cells)
        self._room.free(sequence.slot)
        sequence.slot, sequence.cells, sequence.n_computed, sequence.moved = -1, [], 0, False
