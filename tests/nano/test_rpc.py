"""The layers of a model on two RPC workers: the same numbers as without them, and what happens when one goes away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from interns1_local.commands.own_server import own_server
from interns1_local.config import Settings
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import LoadError, WorkerDied
from interns1_local.runners.model_spec import LoadOptions, ModelSpec
from interns1_local.runners.protocol import Chunk, GenerateRequest
from interns1_local.runners.runner import Runner
from tests.nano.conftest import Converted, store_model
from tests.runners.rpc_workers import NEEDS_RPC, Worker, endpoints, rpc_worker
from tests.tiny import tiny_gguf

pytestmark = NEEDS_RPC

PROMPT = "<|im_start|>user\nWhat is 27 + 15?<|im_end|>\n<|im_start|>assistant\n<think>"
GREEDY = SamplingParams(temperature=0, logprobs=20, ignore_eos=True)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    with rpc_worker() as first, rpc_worker() as second:
        yield [first, second]


def spec_of(files: Converted | tuple[Path, Path]) -> ModelSpec:
    model, mmproj = files
    return ModelSpec("nano", "sha256:0", Path(model), Path(mmproj), LoadOptions(num_ctx=1024, num_parallel=2))


async def run(spec: ModelSpec, rpc: tuple[str, ...], request: GenerateRequest) -> list[Chunk]:
    """The answer's chunks; what llama.cpp says goes to standard error."""
    runner = await Runner.start(spec, Settings(threads=1, debug=True, rpc=rpc))
    try:
        return [chunk async for chunks in runner.generate(request) for chunk in chunks]
    finally:
        await runner.close()


def scores(chunks: list[Chunk]) -> np.ndarray:
    """Log-probabilities of the prompt's and the answer's tokens and their alternatives, by token id."""
    tokens = [token for chunk in chunks for token in [*(chunk.prompt_logprobs or [])[1:], *(chunk.logprobs or [])]]
    return np.array([[top.logprob for top in sorted(token.top, key=lambda top: top.id)] for token in tokens])


@pytest.mark.parametrize("kind", ["nano", "tiny"])
def test_two_workers_give_the_same_numbers(
    kind: str,
    workers: list[Worker],
    nano_gguf: Callable[..., Converted],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    spec = spec_of(nano_gguf("F32", "F32") if kind == "nano" else tiny_gguf(tmp_path))
    request = GenerateRequest(PROMPT, GREEDY, 24, prompt_logprobs=True)
    alone = asyncio.run(run(spec, (), request))
    capfd.readouterr()
    spread = asyncio.run(run(spec, endpoints(workers), request))
    log = capfd.readouterr().err
    assert [id for chunk in alone for id in chunk.ids] == [id for chunk in spread for id in chunk.ids]
    here, there = scores(alone).ravel(), scores(spread).ravel()
    assert float(here @ there / (np.linalg.norm(here) * np.linalg.norm(there))) > 0.9999
    # The tiny one has two blocks, which one worker holds; the other has its output.
    for what in ("model", "KV") if kind == "nano" else ("model",):
        sizes = dict(re.findall(rf"RPC0\[(\S+)\] +{what} buffer size = +([\d.]+) MiB", log))
        assert sizes.keys() == set(endpoints(workers)) and all(float(size) > 0 for size in sizes.values())


def test_a_worker_that_is_not_there_is_named(nano_gguf: Callable[..., Converted]) -> None:
    with pytest.raises(LoadError, match=r"RPC worker 127\.0\.0\.1:9 cannot be reached.*interns1 rpc-worker"):
        asyncio.run(run(spec_of(nano_gguf("F32", "F32")), ("127.0.0.1:9",), GenerateRequest(PROMPT)))


@pytest.mark.parametrize("victim", ["the command", "its process"])
def test_a_worker_that_goes_away_in_mid_answer(victim: str, nano_gguf: Callable[..., Converted]) -> None:
    spec = spec_of(nano_gguf("F32", "F32"))

    async def test(worker: Worker) -> None:
        settings = Settings(threads=1, rpc=(worker.endpoint,))
        runner = await Runner.start(spec, settings)
        try:
            async with aclosing(runner.generate(GenerateRequest(PROMPT, GREEDY, 900))) as chunks:
                await anext(chunks)
                while not worker.serving_pids():
                    await anext(chunks)
                pids = worker.serving_pids()
                # The command's end closes the processes that serve; kill -9 is what a crash is.
                if victim == "the command":
                    worker.process.kill()
                for pid in pids if victim == "its process" else []:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                reason = "went away" if victim == "the command" else "broke, or its process ended"
                with pytest.raises(WorkerDied, match=reason):
                    async for _ in chunks:
                        pass
        finally:
            await runner.close()
        if victim == "its process":
            # The command goes on, and so does the next request.
            assert await run(spec, (worker.endpoint,), GenerateRequest(PROMPT, GREEDY, 4))

    with rpc_worker() as worker:
        asyncio.run(test(worker))


def test_only_who_is_allowed_is_let_in(nano_gguf: Callable[..., Converted]) -> None:
    with rpc_worker("--allow", "127.0.0.2") as worker:
        with pytest.raises(LoadError, match="refuses this machine"):
            asyncio.run(run(spec_of(nano_gguf("F32", "F32")), (worker.endpoint,), GenerateRequest(PROMPT)))
        worker.end()
        assert any("refused 127.0.0.1" in line for line in worker.lines)


def test_a_server_with_workers_answers_questions_about_pictures(
    workers: list[Worker], nano_gguf: Callable[..., Converted], tmp_path: Path
) -> None:
    import ollama

    from interns1_local.nano.pictures import png
    from tests.nano.evaluate import exam, is_right

    environ = {"INTERNS1_MODELS": str(tmp_path / "m"), "INTERNS1_RPC": ",".join(endpoints(workers))}
    sample = exam("pictures", 1)[0]
    with own_server(environ) as started, ollama.Client(started.base_url) as client:
        store_model(client, "nano-rpc", *nano_gguf("Q8_0", "Q8_0"))
        messages = [{"role": "user", "content": sample.messages[-1]["content"], "images": [png(sample.images[0])]}]
        answer = client.chat("nano-rpc", messages, think=False, options={"temperature": 0})
        assert is_right(sample, answer.message.content or "")
