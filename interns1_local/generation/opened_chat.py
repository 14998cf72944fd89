"""A request's conversation as it is rendered: the options, the template and the thinking in force, and its messages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interns1_local.chat.message import Message
from interns1_local.chat.template import ChatTemplate
from interns1_local.generation.abilities import Abilities, abilities
from interns1_local.generation.pictures import parts_of_media
from interns1_local.generation.prepare import all_messages, options_in_force, template_in_use
from interns1_local.generation.prompt import ChatPrompt
from interns1_local.generation.requests import ChatRequest
from interns1_local.generation.thinking import template_variables, think_choice, with_thinking_prompt
from interns1_local.generation.upstream import refuse_upstream


@dataclass(frozen=True, slots=True)
class OpenedChat:
    """A request laid over its model. Whoever renders, answers or counts it starts from here."""

    request: ChatRequest
    model: Abilities
    options: Mapping[str, Any]
    template: ChatTemplate
    think: bool | str | None
    messages: list[Message]

    async def prompt(self) -> ChatPrompt:
        """The prompt, with its pictures cut."""
        media = await parts_of_media(self.messages, self.model.facts, self.options)
        return ChatPrompt(self.template, self.request.tools, self.think, template_variables(self.request), media)


def open_chat(request: ChatRequest) -> OpenedChat:
    """Reads the model's file where that was not read yet. Raises BadRequest and Unsupported."""
    refuse_upstream(request.model, "show or count its prompt")
    model = abilities(request.model)
    options = options_in_force(request.model, model.facts, request.options)
    template = template_in_use(request, model)
    think = think_choice(request, options, template, model)
    messages = with_thinking_prompt(all_messages(request), model, think)
    return OpenedChat(request, model, options, template, think, messages)


async def open_chat_aside(request: ChatRequest) -> OpenedChat:
    """`open_chat` in a thread: the first look at a model's file takes a while."""
    return await asyncio.to_thread(open_chat, request)
