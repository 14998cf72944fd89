"""A client that takes next to no CPU: raw sockets, server-sent events, and the time at which each token came."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

LINE_LIMIT = 1 << 24


@dataclass(slots=True)
class Answer:
    """One streamed answer. Times are of `time.perf_counter`; one entry of `arrivals` for each event with text."""

    asked: float
    arrivals: list[float] = field(default_factory=list)
    n_counted: int | None = None
    # Of the prompt, as the server says it.
    n_prompt: int = 0
    n_cached: int = 0
    text: str = ""

    @property
    def n_tokens(self) -> int:
        """What the server says, else one a piece of text."""
        return len(self.arrivals) if self.n_counted is None else self.n_counted

    @property
    def first(self) -> float:
        """Seconds from the question to the first text."""
        return self.arrivals[0] - self.asked

    def rate(self) -> float:
        """Tokens a second after the first one."""
        return (self.n_tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    def worst_gap(self, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest time between two neighbouring pieces of text of which one came between the two times."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((late - early for early, late in pairs if late >= since and early <= until), default=0.0)


async def ask(port: int, path: str, body: dict[str, Any], answer: Answer | None = None) -> Answer:
    """POST `body` and read the stream to its end. `answer` may be watched while it is being filled."""
    data = json.dumps(body).encode()
    answer = Answer(0.0) if answer is None else answer
    async with connected(port) as (reader, writer):
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        answer.asked = time.perf_counter()
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(f"port {port} answered {status.decode()} {(await reader.read()).decode()[:2000]}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                _read_event(answer, line)
    if not answer.arrivals:
        raise SystemExit(f"port {port} gave no text to {path} {data[:300].decode()}")
    return answer


def _read_event(answer: Answer, line: bytes) -> None:
    now = time.perf_counter()
    event = json.loads(line[6:])
    if usage := event.get("usage"):
        answer.n_counted = usage["completion_tokens"]
        answer.n_prompt = usage.get("prompt_tokens", 0)
        answer.n_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    if "error" in event:
        raise SystemExit(f"an answer ended with {event['error']}")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
        if text:
            answer.text += text
            answer.arrivals.append(now)


async def get(port: int, path: str) -> int:
    """The status of a GET; 0 when nobody listens."""
    try:
        async with connected(port) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return int((await reader.readline()).split()[1])
    except (OSError, IndexError):
        return 0


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to this machine's `port`, closed with the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
