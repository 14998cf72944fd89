"""Many clients at once: no error, no mixed-up answer, no growing memory (a minute of 200: benchmarks/load.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from benchmarks.load import load


def test_many_clients(server: str, served: Callable[[str], str]) -> None:
    tally = asyncio.run(load(server, clients=60, seconds=6, model=served("Q8_0")))
    assert tally.failures == {}
    assert tally.answered > 60 and tally.right == tally.answered
    # Half a minute at least is needed to speak of growth; this finds what grows with every answer.
    assert tally.growth() < 1.3
