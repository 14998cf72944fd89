"""Several answers to one request, made at once; the worker computes what their prompts have in common only once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from interns1_local.chat.events import Finish, Usage
from interns1_local.engine.sampling import MAX_SEED, SamplingParams
from interns1_local.errors import BadRequest
from interns1_local.generation.requests import GenerationEvent

MAX_CHOICES = 128

Events = AsyncGenerator[GenerationEvent]


def check_number(number: int, name: str = "n") -> int:
    """How many choices are wanted. Raises BadRequest when they are none or too many."""
    if not 1 <= number <= MAX_CHOICES:
        raise BadRequest(f"{name} must be between 1 and {MAX_CHOICES}; it is {number}")
    return number


def of_choice(sampling: SamplingParams, index: int) -> SamplingParams:
    """The first choice has the request's seed: it is what a request for one would get. Others have their own."""
    if sampling.seed is None or index == 0:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed}:{index}".encode()).digest()
    return replace(sampling, seed=int.from_bytes(digest[:8], "little") % (MAX_SEED + 1))


async def together(answers: Sequence[Events]) -> AsyncGenerator[tuple[int, GenerationEvent]]:
    """The events of all `answers`, each with the index of its answer, as they come. The first error ends all."""
    if len(answers) == 1:
        async with aclosing(answers[0]) as events:
            async for event in events:
                yield 0, event
        return
    queue: asyncio.Queue[tuple[int, GenerationEvent | Exception | None]] = asyncio.Queue()

    async def pump(index: int, answer: Events) -> None:
        async with aclosing(answer) as events:
            try:
                async for event in events:
                    queue.put_nowait((index, event))
                queue.put_nowait((index, None))
            except Exception as error:
                queue.put_nowait((index, error))

    tasks = [asyncio.ensure_future(pump(index, answer)) for index, answer in enumerate(answers)]
    left = len(tasks)
    try:
        while left:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def usage_of(finishes: Sequence[Finish], per_prompt: int) -> Usage:
    """What all choices cost together: `per_prompt` in a row share a prompt, which counts once."""
    usages = [finish.usage for finish in finishes]
    prompts = [usages[start : start + per_prompt] for start in range(0, len(usages), per_prompt)]
    return replace(
        usages[0],
        prompt_tokens=sum(choices[0].prompt_tokens for choices in prompts),
        # The choice that was first found no more in the cache than others had left there.
        cached_tokens=sum(min(usage.cached_tokens for usage in choices) for choices in prompts),
        output_tokens=sum(usage.output_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )
