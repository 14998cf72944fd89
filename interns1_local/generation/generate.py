"""One generation: template, pictures, runner, stop strings, parsers, events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from interns1_local.chat.message import Image, Message
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.template import MediaRef, ends_in_think
from interns1_local.chat.tool_parsers import detect
from interns1_local.generation.abilities import abilities
from interns1_local.generation.answer import Answer
from interns1_local.generation.prepare import (
    all_messages,
    image_files,
    options_in_force,
    sampling_params,
    template_in_use,
    think_choice,
    tile_images,
    token_limit,
)
from interns1_local.generation.requests import ChatRequest, GenerationEvent, TextRequest
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.protocol import GenerateRequest


async def generate_chat(scheduler: ModelScheduler, request: ChatRequest) -> AsyncGenerator[GenerationEvent]:
    """Answer a conversation. The last event is `Finish`; closing the iterator stops the generation."""
    started = time.monotonic()
    model = await asyncio.to_thread(abilities, request.model)
    options = options_in_force(request.model, model.facts, request.options)
    template = template_in_use(request, model)
    think = think_choice(request, options, template)
    messages = all_messages(request)
    images = image_files(messages, model.facts)
    prompt = template.render(messages, tools=request.tools or None, think=think, kwargs=request.template_kwargs)
    media = await asyncio.to_thread(tile_images, images, model.facts.vision)
    parts = [media[part.index] if isinstance(part, MediaRef) else part for part in prompt]
    parser = ResponseParser(
        reasoning=template.supports_thinking,
        starts_in_reasoning=ends_in_think(prompt),
        tool_grammar=detect(template.source) if request.tools else None,
    )
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        if request.context:
            parts = [await lease.runner.detokenize(list(request.context)), *parts]
        runner_request = GenerateRequest(
            parts, sampling_params(options, request), token_limit(options, request.max_tokens)
        )
        answer = Answer(lease, runner_request, parser, options.get("stop", ()), started, request.return_context)
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield event


async def generate_text(scheduler: ModelScheduler, request: TextRequest) -> AsyncGenerator[GenerationEvent]:
    """Continue a text verbatim; pictures stand before it."""
    started = time.monotonic()
    model = await asyncio.to_thread(abilities, request.model)
    options = options_in_force(request.model, model.facts, request.options)
    images = image_files([Message("user", tuple(Image(data) for data in request.images))], model.facts)
    media = await asyncio.to_thread(tile_images, images, model.facts.vision)
    prompt: Any = [*media, request.prompt] if media else request.prompt
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=None)
    runner_request = GenerateRequest(
        prompt, sampling_params(options, request), token_limit(options, request.max_tokens)
    )
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        answer = Answer(lease, runner_request, parser, options.get("stop", ()), started, False)
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield event


def render_prompt(request: ChatRequest) -> tuple[str, int]:
    """The prompt as text, with `[img-N]` for its pictures, and how many there are."""
    model = abilities(request.model)
    options = options_in_force(request.model, model.facts, request.options)
    template = template_in_use(request, model)
    think = think_choice(request, options, template)
    messages = all_messages(request)
    prompt = template.render(messages, tools=request.tools or None, think=think, kwargs=request.template_kwargs)
    text = "".join(f"[img-{part.index}]" if isinstance(part, MediaRef) else part for part in prompt)
    return text, sum(isinstance(part, MediaRef) for part in prompt)
