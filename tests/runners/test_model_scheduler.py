"""Which models are in memory, with runners that only pretend and a clock turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interns1_local.config import Settings
from interns1_local.errors import BadRequest, Busy, LoadError, ModelNotFound
from interns1_local.runners.model_scheduler import BUSY, ModelScheduler
from interns1_local.runners.model_spec import LoadOptions, ModelSpec

FACTS = SimpleNamespace(context_length=4096, kv_bytes_per_token=16, dynamic_rope=None)


class FakeRunner:
    def __init__(self, spec: ModelSpec) -> None:
        defaults = LoadOptions(2048, 512, -1, 1, 4, "f16", True)
        self.spec, self.options, self.alive = spec, spec.options.over(defaults), True
        self.context_length = self.options.num_ctx
        self.closed = False

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.alive, self.closed = False, True


class World:
    """A scheduler, its clock, and every runner that it started."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.now = 0.0
        self.started: list[FakeRunner] = []
        self.fail: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.digest = "sha256:1"
        self.path = tmp_path / "model.gguf"
        self.path.write_bytes(b"12345")
        self.scheduler = ModelScheduler(
            Settings(**settings), self.resolve, lambda: self.now, self.start, lambda *paths: FACTS
        )

    def resolve(self, name: str) -> ModelSpec:
        if name == "missing":
            raise ModelNotFound(f"model '{name}' not found")
        return ModelSpec(name.lower(), self.digest, self.path)

    async def start(self, spec: ModelSpec, settings: Settings, on_progress: Callable[[float], None]) -> FakeRunner:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
        self.started.append(FakeRunner(spec))
        return self.started[-1]

    async def use(
        self, name: str, options: dict[str, Any] | None = None, keep_alive: float | None = None
    ) -> FakeRunner:
        async with self.scheduler.acquire(name, options or {}, keep_alive) as lease:
            assert lease.runner.alive
            return lease.runner

    @property
    def names(self) -> list[str]:
        return sorted(model.name for model in self.scheduler.loaded())


@pytest.fixture
def in_world(tmp_path: Path) -> Callable[..., None]:
    def run(test: Callable[[World], Awaitable[None]], **settings: Any) -> None:
        async def main() -> None:
            world = World(tmp_path, **settings)
            try:
                await asyncio.wait_for(test(world), 10)
            finally:
                await world.scheduler.close()
            assert all(runner.closed for runner in world.started)

        asyncio.run(main())

    return run


InWorld = Callable[..., None]


async def settle() -> None:
    await asyncio.sleep(0.05)


def test_many_requests_share_one_load(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        runners = await asyncio.gather(*(world.use(name) for name in ["a", "A"] * 5))
        assert len({id(runner) for runner in runners}) == len(world.started) == 1
        (model,) = world.scheduler.loaded()
        assert (model.name, model.size, model.context_length) == ("a", 5 + 16 * 2048, 2048)

    in_world(test)


def test_who_waits_for_the_last_model_to_go_is_called(in_world: InWorld) -> None:
    calls: list[list[str]] = []

    async def test(world: World) -> None:
        world.scheduler.on_empty = lambda: calls.append(world.names)
        await asyncio.gather(world.use("a"), world.use("b"))
        await world.scheduler.unload("a")
        assert calls == []
        await world.scheduler.unload("b")
        assert calls == [[]]
        world.fail = LoadError("no")
        with pytest.raises(LoadError):
            await world.use("c")
        assert calls == [[], []]
        world.fail = None
        await world.use("a")

    # The end of the scheduler itself, after the test, is no time to prepare for others.
    in_world(test)
    assert calls == [[], []]


def test_the_time_runs_only_while_idle(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        async with world.scheduler.acquire("a"):
            world.now = 1000
            await world.scheduler.expire()
            assert world.names == ["a"]
        world.now += 299
        await world.scheduler.expire()
        assert world.names == ["a"]
        world.now += 1
        await world.scheduler.expire()
        assert world.names == []

    in_world(test, keep_alive=300.0)


@pytest.mark.parametrize(("keep_alive", "after", "stays"), [(10, 9, True), (10, 10, False), (-1, 1e9, True)])
def test_a_request_chooses_how_long(in_world: InWorld, keep_alive: float, after: float, stays: bool) -> None:
    async def test(world: World) -> None:
        await world.use("a", keep_alive=keep_alive)
        await world.use("a")  # without a wish of its own it keeps the last one
        assert (world.scheduler.loaded()[0].expires_at is None) == (keep_alive < 0)
        world.now += after
        await world.scheduler.expire()
        assert (world.names == ["a"]) == stays

    in_world(test)


def test_keep_alive_0_unloads_after_the_answer(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        async with world.scheduler.acquire("a", {}, 0):
            await settle()
            assert world.names == ["a"]
        await settle()
        assert world.names == []

    in_world(test)


def test_options_that_the_worker_satisfies_do_not_reload(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        first = await world.use("a", {"num_ctx": 2048, "temperature": 1})
        for options in ({"num_ctx": 1024}, {}, {"num_thread": 0}, {"num_gpu": -1}, {"num_parallel": 2}):
            assert await world.use("a", options) is first
        second = await world.use("a", {"num_ctx": 4096})
        assert second is not first and first.closed
        # More than the model was trained for is cut to what it was trained for.
        assert await world.use("a", {"num_ctx": 99999}) is second
        world.digest = "sha256:2"
        assert await world.use("a") is not second

    in_world(test)


def test_a_reload_waits_for_those_at_work_and_is_not_overtaken(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        async with world.scheduler.acquire("a") as lease:
            larger = asyncio.create_task(world.use("a", {"num_ctx": 4096}))
            await settle()
            later = asyncio.create_task(world.use("a"))
            await settle()
            assert not larger.done() and not later.done() and lease.runner.alive
        assert await larger is await later
        assert lease.runner.closed

    in_world(test)


def test_the_idle_model_with_the_shortest_time_is_evicted(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        await world.use("short", keep_alive=10)
        await world.use("long", keep_alive=100)
        async with world.scheduler.acquire("busy", {}, 1):
            await world.use("new")
            assert world.names == ["busy", "long", "new"]

    in_world(test, max_loaded_models=3)


def test_a_request_waits_when_everything_is_in_use(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        async with world.scheduler.acquire("a"):
            other = asyncio.create_task(world.use("b"))
            await settle()
            assert not other.done()
        await other
        assert world.names == ["b"]

    in_world(test, max_loaded_models=1)


def test_too_many_waiting_requests_are_turned_away(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        world.gate = asyncio.Event()
        waiting = [asyncio.create_task(world.use("a")) for _ in range(2)]
        await settle()
        with pytest.raises(Busy, match=BUSY):
            await world.use("a")
        world.gate.set()
        await asyncio.gather(*waiting)

    in_world(test, max_queue=2)


def test_a_failed_load_fails_all_who_waited_and_the_next_tries_again(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        world.fail = LoadError("broken")
        results = await asyncio.gather(*(world.use("a") for _ in range(4)), return_exceptions=True)
        assert [str(result) for result in results] == ["broken"] * 4
        world.fail, world.now = None, 1.0
        assert (await world.use("a")).alive

    in_world(test)


def test_a_dead_worker_is_replaced(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        first = await world.use("a")
        first.alive = False
        assert await world.use("a") is not first

    in_world(test)


def test_a_client_that_leaves_while_loading_does_not_stop_the_load(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        world.gate = asyncio.Event()
        leaves, stays = (asyncio.create_task(world.use("a")) for _ in range(2))
        await settle()
        leaves.cancel()
        await settle()
        world.gate.set()
        assert await stays is world.started[0]
        assert len(world.started) == 1

    in_world(test)


def test_unload_now_or_after_the_last_request(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        await world.use("a")
        assert await world.scheduler.unload("a")
        assert world.names == []
        assert not await world.scheduler.unload("a")
        async with world.scheduler.acquire("a") as lease:
            assert await world.scheduler.unload("A")
            assert lease.runner.alive
        await settle()
        assert world.names == []

    in_world(test)


def test_unknown_models_and_wrong_options(in_world: InWorld) -> None:
    async def test(world: World) -> None:
        with pytest.raises(ModelNotFound):
            await world.use("missing")
        with pytest.raises(BadRequest, match='option "num_ctx" must be of type integer'):
            await world.use("a", {"num_ctx": "big"})

    in_world(test)


def test_options_merge_and_compare() -> None:
    wanted = LoadOptions.from_options({"num_ctx": 8192.0, "num_thread": 0, "num_gpu": -1, "seed": 3})
    assert wanted == LoadOptions(num_ctx=8192)
    assert wanted.over(LoadOptions(num_ctx=1, num_batch=2)) == LoadOptions(num_ctx=8192, num_batch=2)
    assert wanted.within(4096).num_ctx == 4096
    assert not LoadOptions(num_ctx=4096).satisfies(replace(wanted, num_ctx=8192))
