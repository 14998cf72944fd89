"""What an Interns1 starts, keeps and leaves behind: errors, threads, and programs that forget to close it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interns1_local import AsyncInterns1, Interns1
from interns1_local.chat.events import Content, Reasoning
from interns1_local.errors import BadRequest, ContextOverflow, InternS1Error
from tests.api.conftest import gone

SMALL: Any = {"num_ctx": 1024, "num_thread": 1}
Workers = Callable[[], set[int]]


def words(model: Interns1, count: int = 4) -> str:
    return model.chat("hello", temperature=0, max_tokens=count, ignore_eos=True).content


def test_stays_loaded_until_closed(tiny_file: Path, new_workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of servers."""
    monkeypatch.setenv("INTERNS1_KEEP_ALIVE", "0")
    with Interns1(tiny_file, options=SMALL) as model:
        assert not new_workers(), "nothing is loaded before the first use"
        first = words(model)
        workers = new_workers()
        time.sleep(0.2)
        assert words(model) == first and new_workers() == workers and len(workers) == 1
    assert gone(workers)
    for call in (lambda: words(model), lambda: list(model.stream("hello")), lambda: model.embed("hello")):
        with pytest.raises(InternS1Error, match="closed; make a new one"):
            call()
    model.close()


def test_a_dropped_object_ends_its_worker(tiny_file: Path, new_workers: Workers) -> None:
    words(Interns1(tiny_file, options=SMALL))
    gc.collect()
    assert gone(new_workers())


def test_closing_ends_calls_of_other_threads(tiny_file: Path, new_workers: Workers) -> None:
    model = Interns1(tiny_file, options=SMALL)
    words(model)
    workers = new_workers()
    found: list[BaseException] = []
    begun = threading.Barrier(4)

    def call(work: Callable[[], object]) -> None:
        begun.wait()
        try:
            while True:
                work()
        except InternS1Error as error:
            found.append(error)

    kinds: list[Callable[[], object]] = [
        lambda: words(model, 200),
        lambda: list(model.stream("hello", ignore_eos=True, max_tokens=200)),
        lambda: model.embed(["hello"] * 500),
    ]
    threads = [threading.Thread(target=call, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.3)
    model.close()
    for thread in threads:
        thread.join(10)
    assert len(found) == 3 and all("closed" in str(error) for error in found)
    assert gone(workers)


def test_an_error_ends_its_batch_only(tiny_file: Path) -> None:
    with Interns1(tiny_file, options=SMALL) as model:
        before = words(model)
        batch = ["hello", "hello " * 2000, *["hello"] * 10]
        with pytest.raises(ContextOverflow):
            model.chat(batch, ignore_eos=True, max_tokens=200)
        assert words(model) == before
        assert [
            str(answer) for answer in model.chat(["hello"] * 300, temperature=0, max_tokens=4, ignore_eos=True)
        ] == [before] * 300


def test_a_stream_that_is_left(tiny_file: Path) -> None:
    with Interns1(tiny_file, options=SMALL) as model:
        before = words(model)
        stream = model.stream("hello", ignore_eos=True, max_tokens=200)
        assert isinstance(next(stream), Content | Reasoning)
        del stream
        assert words(model) == before


def test_a_stream_that_is_open_at_the_end(tiny_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Interns1(tiny_file, options=SMALL) as model:
        stream = model.stream("hello", ignore_eos=True, max_tokens=200)
        assert isinstance(next(stream), Content | Reasoning)
    with pytest.raises(InternS1Error, match="closed"):
        next(stream)
    assert "asynchronous generator" not in caplog.text


def test_asynchronous_calls_can_be_cancelled(tiny_file: Path) -> None:
    async def work() -> None:
        async with AsyncInterns1(tiny_file, options=SMALL) as model:
            before = await model.chat("hello", temperature=0, max_tokens=4, ignore_eos=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await model.chat(["hello"] * 20, ignore_eos=True, max_tokens=200)
            assert asyncio.all_tasks() - {asyncio.current_task()} <= _own_tasks(model)
            again = await model.chat("hello", temperature=0, max_tokens=4, ignore_eos=True)
            assert again.content == before.content
            await model.close()
            assert (await model.chat("hello", temperature=0, max_tokens=4, ignore_eos=True)).content == before.content

    asyncio.run(work())


def _own_tasks(model: AsyncInterns1) -> set[asyncio.Task[Any]]:
    """The tasks of the runner and the scheduler; a call's would say `chat`."""
    return {task for task in asyncio.all_tasks() if "AsyncInterns1" not in str(task.get_coro())}


def test_wrong_inputs(tiny_file: Path) -> None:
    model: Any
    with Interns1(tiny_file, options=SMALL) as model:
        for call in (
            lambda: model.embed([1, 2]),
            lambda: model.generate(["hello"]),
            lambda: model.chat([3]),
            lambda: model.chat("hello", images=["/nowhere.png"]),
            lambda: model.chat(["hello"], images=["/nowhere.png"]),
            lambda: model.chat("hello", format=3),
            lambda: model.chat([{"role": "user"}]),
        ):
            with pytest.raises(BadRequest):
                call()
        assert model.embed([]).shape == (0, 0)
