"""How many tokens a request's prompt has, without answering it."""

from __future__ import annotations

from interns1_local.generation.opened_chat import open_chat_aside
from interns1_local.generation.prompt import countable
from interns1_local.generation.requests import ChatRequest
from interns1_local.runners.model_scheduler import ModelScheduler


async def count_prompt(scheduler: ModelScheduler, request: ChatRequest) -> int:
    """Tokens of texts, and places of pictures. The model's process counts, so it is loaded for it."""
    chat = await open_chat_aside(request)
    parts, _ = (await chat.prompt()).render(chat.messages)
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        return int(await lease.runner.count(countable(parts)))
