"""Which models are in memory: who loads, who waits, who is evicted, and when an idle model goes.

`LoadTable` decides with no I/O and a clock handed in; `ModelScheduler` acts on its decisions.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from interns1_local.config import Settings
from interns1_local.errors import Busy, InternS1Error
from interns1_local.runners.model_spec import LoadOptions, ModelFacts, ModelSpec, fit_context, read_model_facts
from interns1_local.runners.runner import Runner
from interns1_local.runners.upstream_runner import UPSTREAM_FACTS, UpstreamRunner

BUSY = "server busy, please try again.  maximum pending requests exceeded"
DEFAULT_MAX_LOADED = 3

# The last is told what share of the model is loaded.
StartRunner = Callable[[ModelSpec, Settings, Callable[[float], None]], Awaitable[Any]]
HasRoom = Callable[[ModelSpec, Settings], bool]


@dataclass(slots=True)
class Slot:
    """One model in memory, or on its way in ("loading", "ready") or out ("closing")."""

    spec: ModelSpec
    keep_alive: float
    state: str = "loading"
    runner: Any = None
    facts: ModelFacts | None = None
    refs: int = 0
    idle_since: float = 0.0
    progress: float = 0.0

    @property
    def idle(self) -> bool:
        return self.state == "ready" and self.refs == 0

    def expires(self) -> float | None:
        """When an idle slot is to go; None is never."""
        return None if self.keep_alive < 0 else self.idle_since + self.keep_alive

    def serves(self, spec: ModelSpec, wanted: LoadOptions) -> bool:
        mine = self.spec.digest, self.spec.adapters, self.spec.draft_path
        same = mine == (spec.digest, spec.adapters, spec.draft_path)
        # Nothing is loaded here for an upstream: no option asks for another loading.
        return same and (spec.upstream is not None or self.runner.options.satisfies(wanted))


@dataclass(frozen=True, slots=True)
class Use:
    """The model is loaded and fits the request."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Load:
    """Close `evict`, then start a worker."""

    evict: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before something changes."""


class LoadTable:
    """The slots by model name, and the rules about them."""

    def __init__(self, max_loaded: int) -> None:
        self._max_loaded = max_loaded
        self.slots: dict[str, Slot] = {}
        # Requests by model name that want it and do not have it yet: it may be ready and not taken for a moment.
        self.wanted: Counter[str] = Counter()

    def decide(self, spec: ModelSpec, wanted: LoadOptions) -> Use | Load | Wait:
        """What a request for `spec` with the load options `wanted` is to do now."""
        slot = self.slots.get(spec.name)
        if slot is not None:
            if slot.state != "ready":
                return Wait()
            if not slot.runner.alive:
                return Load((slot,))
            if slot.serves(spec, wanted):
                return Use(slot)
            return Load((slot,)) if slot.idle else Wait()
        # What another server computes takes no memory here: it neither waits for room nor makes any.
        if spec.upstream is not None or sum(s.spec.upstream is None for s in self.slots.values()) < self._max_loaded:
            return Load(())
        idle = self.least_wanted()
        return Wait() if idle is None else Load((idle,))

    def least_wanted(self) -> Slot | None:
        """The idle model to go first; none that another server computes, as it takes no memory here."""
        idle = [slot for slot in self._unwanted() if slot.spec.upstream is None]
        return min(idle, key=_eviction_order, default=None)

    def expired(self, now: float) -> list[Slot]:
        """Idle slots whose time is over, and slots whose worker died."""
        return [slot for slot in self._unwanted() if _is_over(slot, now) or not slot.runner.alive]

    def next_expiry(self) -> float | None:
        """The earliest time at which an idle slot goes."""
        times = [slot.expires() for slot in self._unwanted()]
        return min((when for when in times if when is not None), default=None)

    def _unwanted(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.idle and not self.wanted[slot.spec.name]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A loaded model for the length of one request."""

    runner: Any
    spec: ModelSpec
    facts: ModelFacts
    load_seconds: float
    # Told what the answer cost, when it is known.
    on_usage: Callable[[str, Any], None] | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One line of `ps`. `expires_at` None is never; a model in use expires its keep-alive from now."""

    name: str
    digest: str
    size: int
    size_vram: int
    # Of size_vram, what RPC workers hold.
    size_remote: int
    context_length: int
    expires_at: datetime | None
    spec: ModelSpec
    facts: ModelFacts | None


class ModelScheduler:
    """Loads models on demand, shares them among requests, and unloads them when their keep-alive is over."""

    def __init__(
        self,
        settings: Settings,
        resolve: Callable[[str], ModelSpec],
        clock: Callable[[], float] = time.monotonic,
        start_runner: StartRunner = Runner.start,
        read_facts: Callable[..., ModelFacts] = read_model_facts,
        has_room: HasRoom = lambda spec, settings: True,
    ) -> None:
        """`has_room` says whether a model fits as well as it can; if not, idle ones make room for it first."""
        self._settings = settings
        self._resolve = resolve
        self._clock = clock
        self._start_runner = start_runner
        self._read_facts = read_facts
        self._has_room = has_room
        self._table = LoadTable(settings.max_loaded_models or DEFAULT_MAX_LOADED)
        self._gates: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failures: dict[str, tuple[float, InternS1Error]] = {}
        self._changed = asyncio.Event()
        self._pending = 0
        self.on_usage: Callable[[str, Any], None] | None = None
        # Called when the last model is gone and others may come.
        self.on_empty: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def acquire(
        self, name: str, options: Mapping[str, Any] | None = None, keep_alive: float | None = None
    ) -> AsyncIterator[Lease]:
        """A lease on the model `name`, loaded if need be; `options` may hold load options such as num_ctx."""
        spec = await asyncio.to_thread(self._resolve, name)
        facts = UPSTREAM_FACTS
        if spec.upstream is None:
            facts = await asyncio.to_thread(self._read_facts, spec.model_path, spec.mmproj_path, spec.sidecar_path)
        asked = LoadOptions.from_options(options or {})
        wanted = fit_context(asked.over(spec.options), facts)
        started = self._clock()
        slot = await self._enter(replace(spec, options=wanted), facts, wanted, keep_alive)
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        try:
            yield Lease(slot.runner, slot.spec, slot.facts or facts, self._clock() - started, self.on_usage)
        finally:
            self._release(slot)

    @property
    def pending(self) -> int:
        """Requests that wait for a model."""
        return self._pending

    def loaded(self) -> list[LoadedModel]:
        """The models in memory, the latest to expire first."""
        slots = [slot for slot in self._table.slots.values() if slot.state != "closing"]
        slots.sort(key=lambda slot: -(self._remaining(slot) if slot.keep_alive >= 0 else float("inf")))
        return [self._describe(slot) for slot in slots]

    def loading(self) -> list[tuple[str, float]]:
        """The models on their way into memory, and the share of each that is there, 0 to 1."""
        return [(slot.spec.name, slot.progress) for slot in self._table.slots.values() if slot.state == "loading"]

    async def unload(self, name: str) -> bool:
        """Unload `name`: now when idle, else after its last request. False when it was not loaded."""
        slot = self._table.slots.get(name)
        if slot is None:
            slot = self._table.slots.get((await asyncio.to_thread(self._resolve, name)).name)
        if slot is None or slot.state == "closing":
            return False
        slot.keep_alive = 0.0
        await self.expire()
        return True

    async def expire(self) -> None:
        """Close every model whose time is over. The timer calls this; tests may."""
        await asyncio.gather(*(self._close(slot) for slot in self._table.expired(self._clock())))

    async def close(self) -> None:
        """End all workers, also those in use."""
        self.on_empty = None
        if self._timer is not None:
            self._timer.cancel()
            with suppress(asyncio.CancelledError):
                await self._timer
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._close(slot) for slot in list(self._table.slots.values())))

    async def _enter(self, spec: ModelSpec, facts: ModelFacts, wanted: LoadOptions, keep_alive: float | None) -> Slot:
        if self._pending >= self._settings.max_queue > 0:
            raise Busy(BUSY)
        entered = self._clock()
        self._pending += 1
        self._table.wanted[spec.name] += 1
        try:
            # One request of a model decides at a time, first come first served: none is overtaken for ever.
            async with self._gates[spec.name]:
                while True:
                    self._raise_shared_failure(spec.name, entered)
                    decision = self._table.decide(spec, wanted)
                    if isinstance(decision, Use):
                        decision.slot.refs += 1
                        return decision.slot
                    if isinstance(decision, Load):
                        await self._load(spec, facts, keep_alive, decision.evict)
                    else:
                        await self._changed.wait()
        finally:
            self._pending -= 1
            self._table.wanted[spec.name] -= 1
            self._notify()

    async def _load(
        self, spec: ModelSpec, facts: ModelFacts, keep_alive: float | None, evict: tuple[Slot, ...]
    ) -> None:
        previous = self._table.slots.get(spec.name)
        inherited = previous.keep_alive if previous else self._settings.keep_alive
        for slot in evict:
            slot.state = "closing"
        await asyncio.gather(*(self._close(slot) for slot in evict))
        if spec.name in self._table.slots:
            return
        slot = Slot(spec, inherited if keep_alive is None else keep_alive, facts=facts)
        self._table.slots[spec.name] = slot
        task = asyncio.create_task(self._start(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A client that leaves does not stop a load that others may wait for.
        await asyncio.shield(task)

    async def _start(self, slot: Slot) -> None:
        def report(share: float) -> None:
            slot.progress = share

        try:
            start = self._start_runner if slot.spec.upstream is None else UpstreamRunner.start
            if slot.spec.upstream is None:
                await self._make_room(slot.spec)
            slot.runner = await start(slot.spec, self._settings, report)
        except BaseException as error:
            self._forget(slot)
            if isinstance(error, InternS1Error):
                self._failures[slot.spec.name] = (self._clock(), error)
                self._notify()
                return
            self._notify()
            raise
        slot.state = "ready"
        slot.idle_since = self._clock()
        self._failures.pop(slot.spec.name, None)
        if self._timer is None:
            self._timer = asyncio.create_task(self._watch())
        self._notify()

    async def _make_room(self, spec: ModelSpec) -> None:
        """Unload idle models, the least wanted first, until `spec` fits or none is left."""
        while (idle := self._table.least_wanted()) is not None:
            if await asyncio.to_thread(self._has_room, spec, self._settings):
                return
            if idle.idle:
                await self._close(idle)

    async def _close(self, slot: Slot) -> None:
        slot.state = "closing"
        if slot.runner is not None:
            await slot.runner.close()
        self._forget(slot)
        self._notify()

    def _forget(self, slot: Slot) -> None:
        if self._table.slots.get(slot.spec.name) is slot:
            del self._table.slots[slot.spec.name]
            if not self._table.slots and self.on_empty is not None:
                self.on_empty()

    def _release(self, slot: Slot) -> None:
        slot.refs -= 1
        if slot.refs == 0:
            slot.idle_since = self._clock()
        self._notify()

    async def _watch(self) -> None:
        while True:
            changed = self._changed
            await self.expire()
            expiry = self._table.next_expiry()
            # Not wait_for: until Python 3.12 it forgets a cancel that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(None if expiry is None else max(0.0, expiry - self._clock())):
                    await changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _raise_shared_failure(self, name: str, entered: float) -> None:
        when, error = self._failures.get(name, (-1.0, None))
        if error is not None and when >= entered:
            raise type(error)(error.message)

    def _remaining(self, slot: Slot) -> float:
        return slot.keep_alive if not slot.idle else slot.idle_since + slot.keep_alive - self._clock()

    def _describe(self, slot: Slot) -> LoadedModel:
        context = slot.runner.context_length if slot.runner is not None else slot.spec.options.num_ctx or 0
        kv_bytes = slot.facts.kv_bytes_per_token * context if slot.facts else 0
        expires = None
        if slot.keep_alive >= 0:
            expires = datetime.now(UTC) + timedelta(seconds=max(0.0, self._remaining(slot)))
        plan = getattr(slot.runner, "plan", None)
        sizes = slot.spec.size + kv_bytes, 0, 0
        if plan is not None:
            sizes = plan.loaded_bytes, plan.offloaded_bytes, plan.remote_bytes
        name, digest = slot.spec.name, slot.spec.digest
        return LoadedModel(name, digest, *sizes, context, expires, slot.spec, slot.facts)


def _is_over(slot: Slot, now: float) -> bool:
    expires = slot.expires()
    return expires is not None and expires <= now


def _eviction_order(slot: Slot) -> tuple[float, float]:
    keep_alive = slot.keep_alive if slot.keep_alive >= 0 else float("inf")
    return keep_alive, slot.idle_since
