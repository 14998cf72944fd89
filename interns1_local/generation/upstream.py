"""Conversations and texts of a model that an upstream engine computes: it has the template and the tokenizer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import Unsupported
from interns1_local.generation.choices import of_choice, together
from interns1_local.generation.prepare import options_in_force, seed_of
from interns1_local.generation.requests import ChatRequest, GenerationEvent, TextRequest
from interns1_local.generation.thinking import chosen_thinking
from interns1_local.generation.upstream_answer import Reading, UpstreamAnswer
from interns1_local.generation.upstream_request import chat_body, text_body
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.upstream_runner import UPSTREAM_FACTS
from interns1_local.store.model_store import StoredModel

Choices = AsyncGenerator[tuple[int, GenerationEvent]]


async def upstream_chat(scheduler: ModelScheduler, request: ChatRequest, n: int) -> Choices:
    """`n` answers to a conversation, as `chat_choices` gives them; each is a request of its own over there."""
    started = time.monotonic()
    options = options_in_force(request.model, UPSTREAM_FACTS, request.options)
    think = chosen_thinking(request, options)
    bodies = [chat_body(request, options, think, _seed(options, index)) for index in range(n)]
    reading = Reading(
        started,
        str(request.model.config.get("parser") or ""),
        request.tools,
        thinks=think is not False,
        max_calls=None if request.parallel_tool_calls else 1,
    )
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        answers = [UpstreamAnswer(lease, "chat/completions", body, reading).events() for body in bodies]
        async with aclosing(together(answers)) as events:
            async for event in events:
                yield event


async def upstream_text(scheduler: ModelScheduler, requests: Sequence[TextRequest], n: int) -> Choices:
    """`n` continuations of each text, as `text_choices` gives them."""
    started = time.monotonic()
    model = requests[0].model
    options = options_in_force(model, UPSTREAM_FACTS, requests[0].options)
    bodies = [(text_body(one, options, _seed(options, index)), one) for one in requests for index in range(n)]
    async with scheduler.acquire(model.name.short, requests[0].options, requests[0].keep_alive) as lease:
        answers = []
        for body, one in bodies:
            echo = one.prompt if one.echo and isinstance(one.prompt, str) else None
            reading = Reading(started, plain=True, echo=echo)
            answers.append(UpstreamAnswer(lease, "completions", body, reading).events())
        async with aclosing(together(answers)) as events:
            async for event in events:
                yield event


def refuse_upstream(model: StoredModel, verb: str) -> None:
    """Unsupported when an upstream engine computes for the model: it alone can `verb`."""
    if model.upstream is not None:
        raise Unsupported(f'"{model.name.short}" cannot {verb}: its engine is {model.upstream.url}, which keeps that')


def _seed(options: Mapping[str, Any], index: int) -> int | None:
    return of_choice(SamplingParams(seed=seed_of(options)), index).seed
