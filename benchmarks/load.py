"""Many clients at once for a minute: no error but the documented 503, every answer whole, memory flat.

python -m benchmarks.load --clients 200 --seconds 60
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from interns1_local.commands.own_server import own_server

SAMPLE_SECONDS = 1.0
QUESTIONS = (
    ("What is 27 + 15?", "42"),
    ("What is the SMILES of aspirin?", "CC(=O)OC1=CC=CC=C1C(=O)O"),
    ("What is the sequence of oxytocin?", "CYIQNCPLG"),
    ("What is 20 + 22?", "42"),
)


@dataclass
class Tally:
    """What the clients saw, and the server's memory second by second (bytes)."""

    statuses: Counter[str] = field(default_factory=Counter)
    right: int = 0
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    memory: list[int] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.statuses["200"]

    @property
    def failures(self) -> dict[str, int]:
        """Everything but answers and the 503 of a full queue."""
        return {name: count for name, count in self.statuses.items() if name not in ("200", "503")}

    def growth(self) -> float:
        """Median memory of the last quarter over that of the second quarter."""
        quarter = max(1, len(self.memory) // 4)
        return statistics.median(self.memory[-quarter:]) / statistics.median(self.memory[quarter : 2 * quarter] or [1])


async def load(base_url: str, clients: int, seconds: float, model: str = "nano") -> Tally:
    """Let `clients` ask one question after the other for `seconds`. The server is a child of this process."""
    tally, end = Tally(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=base_url, timeout=None, limits=limits, trust_env=False) as http:
        await http.post("/api/generate", json={"model": model})
        work = [_client(http, tally, index, end, model) for index in range(clients)]
        await asyncio.gather(*work, _watch(tally, end))
    return tally


async def _client(http: httpx.AsyncClient, tally: Tally, index: int, end: float, model: str) -> None:
    choose = random.Random(index)
    while time.monotonic() < end:
        question, expected = choose.choice(QUESTIONS)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "think": False,
            "options": {"temperature": 0, "num_predict": 60},
        }
        began = time.monotonic()
        try:
            lines = []
            async with http.stream("POST", "/api/chat", json=body) as response:
                async for line in response.aiter_lines():
                    lines.append(json.loads(line))
        except (httpx.HTTPError, ValueError) as error:
            tally.statuses[type(error).__name__] += 1
            continue
        tally.seconds.append(time.monotonic() - began)
        if response.status_code != 200:
            tally.statuses[str(response.status_code)] += 1
            await asyncio.sleep(0.05)
            continue
        whole = bool(lines) and lines[-1].get("done") is True and "error" not in lines[-1]
        tally.statuses["200" if whole else "an answer that is not whole"] += 1
        tally.right += whole and "".join(line["message"]["content"] for line in lines) == expected
        tally.tokens += lines[-1].get("eval_count", 0) if whole else 0


async def _watch(tally: Tally, end: float) -> None:
    while time.monotonic() < end:
        tally.memory.append(children_bytes())
        await asyncio.sleep(SAMPLE_SECONDS)


def children_bytes() -> int:
    """Resident bytes of the processes below this one (Linux)."""
    total = 0
    for child in descendants(os.getpid()):
        # One that ended since counts nothing.
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def descendants(pid: int) -> list[int]:
    """The processes below process `pid` (Linux)."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # One that ended since has none.
        with contextlib.suppress(OSError):
            found += [int(text) for text in path.read_text().split()]
    return found + [grandchild for child in found for grandchild in descendants(child)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    environ = {"INTERNS1_LOG": "off"}
    with tempfile.TemporaryDirectory() as folder, own_server(environ | {"INTERNS1_MODELS": folder}) as client:
        tally = asyncio.run(load(client.base_url, arguments.clients, arguments.seconds))
    print(f"{arguments.clients} clients, {arguments.seconds:.0f} s: {dict(tally.statuses)}")
    print(f"{tally.answered / arguments.seconds:.0f} answers/s, {tally.tokens / arguments.seconds:.0f} tokens/s")
    ordered = sorted(tally.seconds)
    worst = ordered[int(len(ordered) * 0.99)]
    print(f"time to a whole answer: median {statistics.median(ordered):.2f} s, 99 % {worst:.2f} s")
    print(f"right answers: {tally.right} of {tally.answered}")
    print(f"memory of server and worker: {max(tally.memory) >> 20} MB at most, grown by {tally.growth() - 1:+.1%}")


if __name__ == "__main__":
    main()
