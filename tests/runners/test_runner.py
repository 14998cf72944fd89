"""A real worker process: answers, cancelling, dying, and never staying behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interns1_local.config import Settings
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest, ContextOverflow, LoadError, WorkerDied
from interns1_local.runners import runner as runner_module
from interns1_local.runners import worker_process
from interns1_local.runners.model_spec import LoadOptions, ModelSpec
from interns1_local.runners.protocol import Chunk, GenerateRequest
from interns1_local.runners.runner import Runner

GREEDY = SamplingParams(temperature=0, ignore_eos=True)


def with_runner(spec: ModelSpec, settings: Settings, test: Callable[[Runner], Awaitable[None]]) -> None:
    async def main() -> None:
        runner = await Runner.start(spec, settings)
        try:
            await asyncio.wait_for(test(runner), 60)
        finally:
            await runner.close()

    asyncio.run(main())


async def collect(runner: Runner, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunks in runner.generate(request) for chunk in chunks]


def ids(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.ids]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_answers_stream_and_eight_at_once_equal_one_at_a_time(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        requests = [GenerateRequest(f"hello world {i} " * (i + 1), GREEDY, 24) for i in range(8)]
        alone = [ids(await collect(runner, request)) for request in requests]
        together = await asyncio.gather(*(collect(runner, request) for request in requests))
        assert [ids(chunks) for chunks in together] == alone
        assert len(together[0]) > 4
        finish = together[0][-1].finish
        assert (finish.reason, finish.output_tokens) == ("length", 24)
        assert finish.cached_tokens > 0

    with_runner(tiny_spec, quick, test)


def test_text_pictures_ids_and_tokens(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        tiles = np.zeros((3, 56, 56, 3), np.uint8)
        with_picture = await collect(runner, GenerateRequest(["hello ", tiles, " world"], GREEDY, 2))
        tokens = await runner.tokenize("hello ")
        rest = await runner.tokenize(" world")
        # Start and end of the picture, and four places for each tile.
        assert with_picture[-1].finish.prompt_tokens == len(tokens) + len(rest) + 2 + 12
        by_ids = await collect(runner, GenerateRequest([token["id"] for token in tokens], GREEDY, 5))
        assert ids(by_ids) == ids(await collect(runner, GenerateRequest("hello ", GREEDY, 5)))
        assert await runner.detokenize([token["id"] for token in tokens]) == "hello "
        science = await runner.tokenize("<SMILES>CCO</SMILES>")
        assert [token["domain"] for token in science] == [None, "smiles", None]
        assert runner.context_length == 2048

    with_runner(tiny_spec, quick, test)


def test_logprobs_carry_bytes(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        sampling = replace(GREEDY, logprobs=2)
        for chunk in await collect(runner, GenerateRequest("hello", sampling, 3)):
            (entry,) = chunk.logprobs
            assert entry.data == chunk.data and [entry.id] == chunk.ids
            assert len(entry.top) == 2 and entry.top[0].logprob == entry.logprob

    with_runner(tiny_spec, quick, test)


def test_bad_requests_are_errors_of_their_own(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        with pytest.raises(ContextOverflow, match="2048"):
            await collect(runner, GenerateRequest([5] * 3000, GREEDY))
        for prompt in ([10**6], [-3], "", []):
            with pytest.raises(BadRequest):
                await collect(runner, GenerateRequest(prompt, GREEDY))
        with pytest.raises(BadRequest):
            await collect(runner, GenerateRequest(["a", np.zeros((56, 56, 3), np.uint8)], GREEDY))
        assert len(ids(await collect(runner, GenerateRequest("hello", GREEDY, 3)))) == 3

    with_runner(tiny_spec, quick, test)


@pytest.mark.parametrize("interval", [0.0, 1.0])
def test_tokens_go_together_as_the_interval_says(interval: float, tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        request = GenerateRequest("hello", GREEDY, 40)
        counts = [len(chunks) async for chunks in runner.generate(request)]
        assert sum(counts) == 40
        assert max(counts) > 1 if interval else max(counts) == 1

    with_runner(tiny_spec, replace(quick, stream_interval=interval), test)


def test_closing_the_iterator_cancels_in_an_answer_and_in_a_prompt(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        async with aclosing(runner.generate(GenerateRequest("hello", GREEDY, 2000))) as chunks:
            async for _ in chunks:
                break
        waiting = asyncio.create_task(collect(runner, GenerateRequest([7] * 2000, GREEDY, 40)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        began = time.monotonic()
        # The whole cache is free again: this prompt needs most of it.
        finish = (await collect(runner, GenerateRequest([9] * 2000, GREEDY, 2)))[-1].finish
        assert finish.output_tokens == 2
        assert time.monotonic() - began < 20
        assert not runner._streams

    with_runner(tiny_spec, quick, test)


def test_a_killed_worker_ends_its_requests_and_a_new_one_works(tiny_spec: ModelSpec, quick: Settings) -> None:
    async def test(runner: Runner) -> None:
        chunks = runner.generate(GenerateRequest("hello", GREEDY, 2000))
        await anext(chunks)
        os.kill(runner.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="SIGKILL"):
            async for _ in chunks:
                pass
        assert not runner.alive
        with pytest.raises(WorkerDied):
            await collect(runner, GenerateRequest("hello", GREEDY, 2))

    with_runner(tiny_spec, quick, test)
    with_runner(tiny_spec, quick, lambda runner: collect(runner, GenerateRequest("hello", GREEDY, 2)))


def test_closing_ends_the_process(tiny_spec: ModelSpec, quick: Settings) -> None:
    pids = []

    async def test(runner: Runner) -> None:
        pids.append(runner.pid)
        assert is_running(runner.pid)
        answer = asyncio.create_task(collect(runner, GenerateRequest("hello", GREEDY, 2000)))
        await asyncio.sleep(0.05)
        await runner.close()
        with pytest.raises(WorkerDied):
            await answer

    with_runner(tiny_spec, quick, test)
    assert not is_running(pids[0])


def test_a_worker_does_not_outlive_its_server(tiny_spec: ModelSpec) -> None:
    script = f"""
import asyncio, os, sys
from pathlib import Path
from interns1_local.config import Settings
from interns1_local.runners.model_spec import LoadOptions, ModelSpec
from interns1_local.runners.runner import Runner
async def main():
    spec = ModelSpec("tiny", "d", Path({str(tiny_spec.model_path)!r}), None, LoadOptions(num_ctx=256))
    runner = await Runner.start(spec, Settings(threads=1))
    assert not any(name.startswith("llama_cpp") for name in sys.modules)
    print(runner.pid, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_loopback_tcp_where_unix_sockets_are_missing(
    tiny_spec: ModelSpec, quick: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "HAS_UNIX_SOCKETS", False)
    with_runner(tiny_spec, quick, lambda runner: collect(runner, GenerateRequest("hello", GREEDY, 2)))


def test_progress_is_reported(tiny_spec: ModelSpec, quick: Settings) -> None:
    seen: list[float] = []

    async def main() -> None:
        runner = await Runner.start(tiny_spec, quick, seen.append)
        await runner.close()

    asyncio.run(main())
    assert seen[-1] == 1.0 and seen == sorted(seen)


@pytest.mark.parametrize("damage", ["truncated", "blocks"])
def test_a_damaged_file_is_a_load_error(tiny_spec: ModelSpec, quick: Settings, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "damaged.gguf"
    data = tiny_spec.model_path.read_bytes()
    key = b"qwen3moe.block_count"
    place = data.index(key) + len(key) + 4
    changed = data[:place] + (999).to_bytes(4, "little") + data[place + 4 :]
    path.write_bytes(data[: len(data) // 2] if damage == "truncated" else changed)

    with pytest.raises(LoadError, match="damaged"):
        asyncio.run(Runner.start(replace(tiny_spec, name="damaged", model_path=path), quick))


def test_a_wrong_vision_file_is_a_load_error(tiny_spec: ModelSpec, quick: Settings) -> None:
    with pytest.raises(LoadError, match="vision file"):
        asyncio.run(Runner.start(replace(tiny_spec, mmproj_path=tiny_spec.model_path), quick))


def test_cancelled_prompts_do_not_hold_up_the_next(tiny_spec: ModelSpec, quick: Settings) -> None:
    # Twenty prompts of 4,000 tokens are many seconds of work; the next request must not wait for them.
    spec = replace(tiny_spec, options=LoadOptions(num_ctx=4096, num_parallel=8))

    async def test(runner: Runner) -> None:
        await collect(runner, GenerateRequest("hello", GREEDY, 1))
        random = np.random.default_rng(0)
        prompts = [random.integers(0, 250, 4000).tolist() for _ in range(20)]
        waiting = [asyncio.create_task(collect(runner, GenerateRequest(prompt, GREEDY, 40))) for prompt in prompts]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        began = time.monotonic()
        await collect(runner, GenerateRequest("hello", GREEDY, 1))
        # The bound leaves room for a busy machine; alone it takes some tens of milliseconds.
        assert time.monotonic() - began < 1.0

    with_runner(spec, quick, test)


def test_a_worker_that_is_closed_in_order_leaves_what_it_has_read_to_the_next(
    tiny_spec: ModelSpec, quick: Settings, tmp_path: Path
) -> None:
    settings = replace(quick, prefix_cache_dir=tmp_path / "prefixes")
    prompt, cached = list(range(200)), []

    async def test(runner: Runner) -> None:
        chunks = runner.generate(GenerateRequest(prompt, GREEDY, 2000))
        async for chunk, *_ in chunks:
            # It is closed in the middle of the answer.
            cached.append(chunk.prompt[1])
            break

    with_runner(tiny_spec, settings, test)
    with_runner(tiny_spec, settings, test)
    assert cached == [0, 199]


def test_a_worker_that_hangs_at_its_end_is_killed(
    tiny_spec: ModelSpec, quick: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(runner_module, "CLOSE_SECONDS", 0.1)
    pids = []

    async def test(runner: Runner) -> None:
        pids.append(runner.pid)
        os.kill(runner.pid, signal.SIGSTOP)

    with_runner(tiny_spec, replace(quick, prefix_cache_dir=tmp_path), test)
    assert not is_running(pids[0])
