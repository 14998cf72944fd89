"""One generation: template, pictures, runner, stop strings, parsers, events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from interns1_local.chat.events import Truncation
from interns1_local.chat.message import Message
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.template import MediaRef
from interns1_local.chat.tool_parsers import detect
from interns1_local.errors import ContextOverflow
from interns1_local.generation.answer import Answer, AnswerPlan
from interns1_local.generation.answer_rules import chat_rules, text_grammar
from interns1_local.generation.choices import of_choice, together
from interns1_local.generation.opened_chat import open_chat, open_chat_aside
from interns1_local.generation.pictures import parts_of_media
from interns1_local.generation.prepare import (
    options_in_force,
    runner_options,
    sampling_params,
    thought_rules,
    token_limit,
)
from interns1_local.generation.prompt import fit
from interns1_local.generation.requests import ChatRequest, GenerationEvent, TextRequest
from interns1_local.generation.thinking import template_variables
from interns1_local.generation.upstream import upstream_chat, upstream_text
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.protocol import GenerateRequest


async def generate_chat(scheduler: ModelScheduler, request: ChatRequest) -> AsyncGenerator[GenerationEvent]:
    """Answer a conversation. The last event is `Finish`; closing the iterator stops the generation."""
    async with aclosing(chat_choices(scheduler, request, 1)) as choices:
        async for _, event in choices:
            yield event


async def generate_text(scheduler: ModelScheduler, request: TextRequest) -> AsyncGenerator[GenerationEvent]:
    """Continue a text verbatim; pictures stand before it."""
    async with aclosing(text_choices(scheduler, [request], 1)) as choices:
        async for _, event in choices:
            yield event


async def chat_choices(
    scheduler: ModelScheduler, request: ChatRequest, n: int
) -> AsyncGenerator[tuple[int, GenerationEvent]]:
    """`n` answers to a conversation at once: their events, each with the index of its answer."""
    if request.model.upstream is not None:
        async with aclosing(upstream_chat(scheduler, request, n)) as choices:
            async for choice in choices:
                yield choice
        return
    started = time.monotonic()
    chat = await open_chat_aside(request)
    options, template = chat.options, chat.template
    held = await asyncio.to_thread(chat_rules, request, template, chat.model.facts)
    prompt = await chat.prompt()
    limit, told = token_limit(options, request.max_tokens), runner_options(request.model, options)
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:

        def answers(
            kept: Sequence[Message], before: list[str], truncation: Truncation | None
        ) -> AsyncGenerator[tuple[int, GenerationEvent]]:
            parts, opens_thought = prompt.render(kept)
            whole = GenerateRequest(
                [*before, *parts],
                sampling_params(options, request),
                limit,
                thought=thought_rules(request, options, template, opens_thought, chat.think),
                grammar=held.grammar,
                grammar_after=held.after,
                forbidden=held.forbidden,
                **told,
            )
            calls = None if request.parallel_tool_calls else 1
            plan = AnswerPlan(options.get("stop", ()), started, request.return_context, calls, truncation)

            def answer(index: int) -> Answer:
                parser = ResponseParser(
                    reasoning=template.supports_thinking,
                    starts_in_reasoning=opens_thought,
                    tool_grammar=detect(template.source) if request.tools and request.tool_choice != "none" else None,
                    tools=request.tools,
                )
                return Answer(lease, replace(whole, sampling=of_choice(whole.sampling, index)), parser, plan)

            return together([answer(index).events() for index in range(n)])

        before = [await lease.runner.detokenize(list(request.context))] if request.context else []
        try:
            async with aclosing(answers(chat.messages, before, None)) as events:
                async for event in events:
                    yield event
            return
        except ContextOverflow:
            # Raised before the first event. Counting is left to those prompts that do not fit.
            if not request.truncate or before:
                raise
        kept, truncation = await fit(prompt, chat.messages, lease.runner.count, lease.runner.context_length, limit)
        async with aclosing(answers(kept, [], truncation)) as events:
            async for event in events:
                yield event


async def text_choices(
    scheduler: ModelScheduler, requests: Sequence[TextRequest], n: int
) -> AsyncGenerator[tuple[int, GenerationEvent]]:
    """`n` continuations of each text at once; those of the first come first in the count of indices.

    The requests are for the same model with the same options: only their prompts may differ.
    """
    if requests[0].model.upstream is not None:
        async with aclosing(upstream_text(scheduler, requests, n)) as choices:
            async for choice in choices:
                yield choice
        return
    started = time.monotonic()
    request = requests[0]
    stored = request.model
    # Not its abilities: a text needs no template.
    facts = await asyncio.to_thread(read_model_facts, stored.model_path, stored.mmproj_path, stored.sidecar_path)
    options = options_in_force(stored, facts, request.options)
    media = await parts_of_media([Message("user", tuple(request.images))], facts, options)
    pictures = [piece for pieces in media.values() for piece in pieces]
    grammar = await asyncio.to_thread(text_grammar, request)
    limit, told = token_limit(options, request.max_tokens), runner_options(request.model, options)
    scored = request.echo and request.logprobs is not None
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:

        def answer(prompt: Any, index: int, echo: str | None) -> Answer:
            parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=None)
            sampling = of_choice(sampling_params(options, request), index)
            parts = [*pictures, prompt] if pictures else prompt
            runner_request = GenerateRequest(
                parts,
                sampling,
                limit,
                grammar=grammar,
                prompt_logprobs=scored,
                **told,
            )
            return Answer(lease, runner_request, parser, AnswerPlan(options.get("stop", ()), started, echo=echo))

        answers = []
        for prompt in [one.prompt for one in requests]:
            echo = None
            if request.echo:
                echo = prompt if isinstance(prompt, str) else await lease.runner.detokenize(list(prompt))
            answers += [answer(prompt, index, echo).events() for index in range(n)]
        async with aclosing(together(answers)) as events:
            async for event in events:
                yield event


def render_prompt(request: ChatRequest) -> tuple[str, int]:
    """The prompt as text, with `[img-N]` for its pictures, and how many there are."""
    chat = open_chat(request)
    prompt = chat.template.render(
        chat.messages, tools=request.tools or None, think=chat.think, kwargs=template_variables(request)
    )
    text = "".join(f"[img-{part.index}]" if isinstance(part, MediaRef) else part for part in prompt)
    return text, sum(isinstance(part, MediaRef) for part in prompt)
