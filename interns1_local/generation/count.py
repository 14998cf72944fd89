"""How many tokens a request's prompt has, without answering it."""

from __future__ import annotations

import asyncio

from interns1_local.generation.abilities import abilities
from interns1_local.generation.media_parts import media_parts
from interns1_local.generation.prepare import all_messages, options_in_force, template_in_use
from interns1_local.generation.prompt import ChatPrompt
from interns1_local.generation.requests import ChatRequest
from interns1_local.generation.thinking import template_variables, think_choice, with_thinking_prompt
from interns1_local.runners.model_scheduler import ModelScheduler


async def count_prompt(scheduler: ModelScheduler, request: ChatRequest) -> int:
    """Tokens of texts, and places of pictures. The model's process counts, so it is loaded for it."""
    model = await asyncio.to_thread(abilities, request.model)
    options = options_in_force(request.model, model.facts, request.options)
    template = template_in_use(request, model)
    think = think_choice(request, options, template, model)
    messages = with_thinking_prompt(all_messages(request), model, think)
    media = await media_parts(messages, model.facts, options)
    prompt = ChatPrompt(template, request.tools, think, template_variables(request), media)
    parts, _ = prompt.render(messages)
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        return int(await lease.runner.count([part if isinstance(part, str) else len(part) for part in parts]))
