"""What is measured of a server, each measure once a call: tokens a second, seconds, shares of a core, or tokens."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from benchmarks.load import descendants
from benchmarks.serve_client import Answer
from benchmarks.serve_models import picture, records
from benchmarks.serve_servers import SIDES, Server, Setup

Figures = dict[str, float]

PREFIX_TOKENS = 1500
LONG_TOKENS = 4000
DECODE_TOKENS = 128
STREAM_TOKENS = 64
IDLE_SECONDS = 10.0
# Of reading a long prompt, before it is cancelled; and by when it is to be gone.
READING_SECONDS = 1.0
CANCEL_BOUND = 0.2


@dataclass(frozen=True)
class Aim:
    """`ours` over the figure of `beside` (a side, or another figure of ours) is to be at least or at most `ratio`."""

    figure: str
    beside: str
    ratio: float | None = None
    at_least: bool = True

    def reached(self, ratio: float) -> bool | None:
        """None when nothing is aimed at."""
        if self.ratio is None:
            return None
        return ratio >= self.ratio if self.at_least else ratio <= self.ratio


@dataclass(frozen=True)
class Measure:
    """One row of figures: what it is, how it is taken, on which servers, and what is aimed at."""

    name: str
    title: str
    take: Callable[[Server, str], Awaitable[Figures]]
    setup: Setup
    aims: tuple[Aim, ...]
    units: dict[str, str]
    sides: tuple[str, ...] = SIDES
    models: tuple[str, ...] = ("gemma", "moe")
    # llama-bench beside the servers.
    ceiling: bool = False
    # The measure starts and ends the server itself.
    starts: bool = False


async def decode(server: Server, seed: str) -> Figures:
    """One stream of tokens after a short prompt."""
    answer = await server.complete(server.model.prompts.text(16, seed), DECODE_TOKENS)
    return {"tok/s": answer.rate(), "worst gap": answer.worst_gap()}


async def first_token(server: Server, seed: str) -> Figures:
    """Time to the first token of a prompt of 512 tokens that nobody saw before."""
    return {"first": (await server.complete(server.model.prompts.text(512, seed), 2)).first}


async def _streams(server: Server, seed: str, count: int) -> Figures:
    prompts = [server.model.prompts.text(64, f"{seed} {index}") for index in range(count)]
    began = time.perf_counter()
    answers = await asyncio.gather(*(server.complete(prompt, STREAM_TOKENS) for prompt in prompts))
    seconds = max(answer.arrivals[-1] for answer in answers) - began
    tokens = sum(answer.n_tokens for answer in answers)
    return {"tok/s": tokens / seconds, "worst gap": max(answer.worst_gap() for answer in answers)}


async def streams_8(server: Server, seed: str) -> Figures:
    """8 clients at once with prompts of their own, from the first question to the last token."""
    return await _streams(server, seed, 8)


async def streams_32(server: Server, seed: str) -> Figures:
    """32 clients at once."""
    return await _streams(server, seed, 32)


async def repeated_prefix(server: Server, seed: str) -> Figures:
    """First token of a prompt that begins as one before it, the server being idle."""
    prompts = server.model.prompts
    prefix = prompts.text(PREFIX_TOKENS, seed)
    times = [(await server.complete(prefix + prompts.text(10, f"{seed} {n}"), 2)).first for n in range(3)]
    return {"cold": times[0], "first": (times[1] + times[2]) / 2}


async def shared_prefix(server: Server, seed: str) -> Figures:
    """8 clients at once with the same beginning, which is new: time to the last of their first tokens."""
    prompts = server.model.prompts
    prefix = prompts.text(PREFIX_TOKENS, seed)
    asked = [server.complete(prefix + prompts.text(10, f"{seed} {n}"), 2) for n in range(8)]
    return {"last first": max(answer.first for answer in await asyncio.gather(*asked))}


async def long_arrival(server: Server, seed: str) -> Figures:
    """A long prompt arrives among 4 running streams: the longest pause of those until it is read."""
    prompts = server.model.prompts
    answers = [Answer(0.0) for _ in range(4)]
    running = [
        asyncio.ensure_future(server.complete(prompts.text(64, f"{seed} {n}"), 400, answer))
        for n, answer in enumerate(answers)
    ]
    long_prompt = prompts.text(LONG_TOKENS, seed)
    while any(len(answer.arrivals) < 8 for answer in answers):
        await asyncio.sleep(0.01)
    arrived = time.perf_counter()
    first = await server.complete(long_prompt, 2)
    read = first.arrivals[0]
    await asyncio.sleep(0.3)
    for task in running:
        await _leave(task)
    gaps = [answer.worst_gap(arrived, read) for answer in answers]
    tokens = sum(arrived <= moment <= read for answer in answers for moment in answer.arrivals)
    return {"worst gap": max(gaps), "first": first.first, "meanwhile tok/s": tokens / first.first}


async def _leave(task: asyncio.Future[Answer]) -> None:
    """Be the client that closes its connection in mid-answer."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def cancelled(server: Server, seed: str) -> Figures:
    """A client leaves while its long prompt is read: the first token of the next, who waits for the only slot."""
    prompts = server.model.prompts
    alone = await server.complete(prompts.text(16, f"{seed} alone"), 2)
    leaving = asyncio.ensure_future(server.complete(prompts.text(LONG_TOKENS, seed), 2))
    await asyncio.sleep(READING_SECONDS)
    await _leave(leaving)
    after = await server.complete(prompts.text(16, f"{seed} after"), 2)
    return {"alone": alone.first, "after": after.first, "bound": CANCEL_BOUND}


async def same_picture(server: Server, seed: str) -> Figures:
    """First token of a question on a new picture, and of a second question on it; what both had to read.

    The tokens say whether the servers cut the picture into as many tiles.
    """
    image = picture(crc32(seed.encode()))
    first = await server.look("What is at the top?", image)
    second = await server.look("Which colours are there?", image)
    return {
        "first question": first.first,
        "second question": second.first,
        "tokens": first.n_prompt,
        "of the second not cached": second.n_prompt - second.n_cached,
    }


async def extraction(server: Server, seed: str) -> Figures:
    """JSON out of a long text: plain, and with the answer guessed from the prompt."""
    prompt = records(crc32(seed.encode()))
    plain = await server.complete(prompt, 192, options={"speculative": "off"})
    lookup = await server.complete(prompt, 192, options={"speculative": "lookup"})
    return {"tok/s plain": plain.rate(), "tok/s lookup": lookup.rate()}


async def idle(server: Server, seed: str) -> Figures:
    """Share of a core that a loaded server takes while nobody asks."""
    await server.complete(server.model.prompts.text(8, seed), 2)
    await asyncio.sleep(1)
    began = cpu_seconds(server.pid)
    await asyncio.sleep(IDLE_SECONDS)
    return {"core share": (cpu_seconds(server.pid) - began) / IDLE_SECONDS}


async def start(server: Server, seed: str) -> Figures:
    """From the start of the process to the first token of the first question."""
    prompt = server.model.prompts.text(16, seed)
    began = time.perf_counter()
    server.launch()
    try:
        await server.until_ready()
        ready = time.perf_counter() - began
        answer = await server.complete(prompt, 1)
        return {"ready": ready, "first": answer.arrivals[0] - began}
    finally:
        server.stop()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those below it."""
    total = 0.0
    for each in (pid, *descendants(pid)):
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


ONE, EIGHT, MANY, LONG = Setup(1, 4096), Setup(8, 2048), Setup(32, 256), Setup(5, 4608)
NO_PYTHON = SIDES[:2]

MEASURES = (
    Measure(
        "decode", "single stream, 128 tokens", decode, ONE,
        (Aim("tok/s", "llama-bench", 0.97), Aim("tok/s", "llama-server", 1.0), Aim("tok/s", "llama_cpp.server")),
        {"tok/s": "tok/s", "worst gap": "ms"}, ceiling=True,
    ),
    Measure(
        "ttft", "first token of 512", first_token, ONE,
        (Aim("first", "llama-server"), Aim("first", "llama_cpp.server")), {"first": "ms"},
    ),
    Measure(
        "streams8", "8 streams, 64 tokens after 64", streams_8, EIGHT,
        (Aim("tok/s", "llama-server", 1.0), Aim("tok/s", "llama_cpp.server", 2.5), Aim("worst gap", "llama-server")),
        {"tok/s": "tok/s", "worst gap": "ms"},
    ),
    Measure(
        "streams32", "32 streams, 64 tokens after 64", streams_32, MANY,
        (Aim("tok/s", "llama-server", 1.0), Aim("worst gap", "llama-server")),
        {"tok/s": "tok/s", "worst gap": "ms"}, NO_PYTHON,
    ),
    Measure(
        "prefix", "repeated prefix of 1,500 tokens", repeated_prefix, ONE,
        (Aim("first", "llama-server", 1.1, False), Aim("cold", "llama-server")), {"cold": "ms", "first": "ms"},
        NO_PYTHON,
    ),
    Measure(
        "shared", "8 clients at once share 1,500 tokens", shared_prefix, EIGHT,
        (Aim("last first", "llama-server", 0.35, False),), {"last first": "ms"}, NO_PYTHON,
    ),
    Measure(
        "long", "4,000 tokens arrive among 4 streams", long_arrival, LONG,
        (Aim("worst gap", "llama-server", 0.5, False), Aim("first", "llama-server")),
        {"worst gap": "ms", "first": "ms", "meanwhile tok/s": "tok/s"}, NO_PYTHON,
    ),
    Measure(
        "cancel", "first token after 4,000 tokens were cancelled", cancelled, ONE,
        (Aim("after", "bound", 1.0, False), Aim("after", "llama-server")), {"alone": "ms", "after": "ms"}, NO_PYTHON,
    ),
    Measure(
        "picture", "second question on a picture", same_picture, ONE,
        (Aim("second question", "first question", 0.2, False), Aim("first question", "llama-server"),
         Aim("second question", "llama-server")),
        {"first question": "ms", "second question": "ms", "tokens": "tokens", "of the second not cached": "tokens"},
        NO_PYTHON, ("moe",),
    ),
    Measure(
        "json", "JSON extraction from a long text", extraction, ONE,
        (Aim("tok/s lookup", "tok/s plain", 1.5),), {"tok/s plain": "tok/s", "tok/s lookup": "tok/s"},
        NO_PYTHON[:1], ("gemma",),
    ),
    Measure(
        "idle", "CPU while nobody asks, 10 s", idle, ONE, (Aim("core share", "llama-server"),), {"core share": "%"},
    ),
    Measure(
        "start", "start to first token", start, ONE,
        (Aim("first", "llama-server", 1.0, False), Aim("first", "llama_cpp.server")), {"ready": "ms", "first": "ms"},
        starts=True,
    ),
)  # fmt: skip
