"""Thinking means the same, whichever way it was asked for.

The ways, the strongest first: `enable_thinking` (of a request, or in its `chat_template_kwargs`), then the request's
`think` or `reasoning_effort`, then the option `think` of the request or the Modelfile. None is no choice: then the
template decides. A level is on, and the template is told the level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interns1_local.chat.message import Message, Text
from interns1_local.chat.template import ChatTemplate
from interns1_local.errors import BadRequest
from interns1_local.generation.abilities import Abilities
from interns1_local.generation.requests import ChatRequest
from interns1_local.store.options import think_value

SWITCH = "enable_thinking"


def think_choice(
    request: ChatRequest, options: Mapping[str, Any], template: ChatTemplate, model: Abilities
) -> bool | str | None:
    """What was chosen. `think` of a model that cannot is an error, `enable_thinking` is not: it is for templates."""
    chosen = chosen_thinking(request, options)
    if template.supports_thinking or model.thinking_prompt is not None:
        return chosen
    if chosen and request.think is not None and request.template_kwargs.get(SWITCH) is None:
        raise BadRequest(f'"{request.name or request.model.name.short}" does not support thinking')
    return None


def chosen_thinking(request: ChatRequest, options: Mapping[str, Any]) -> bool | str | None:
    """What was chosen of a model that can think, or may be able to."""
    chosen: bool | str | None = options.get("think") if request.think is None else think_value(request.think)
    switch = request.template_kwargs.get(SWITCH)
    if switch is None:
        return chosen
    if not isinstance(switch, bool):
        raise BadRequest(f"{SWITCH} must be true or false; it is {switch!r}")
    return (chosen or True) if switch else False


def template_variables(request: ChatRequest) -> dict[str, Any]:
    """`chat_template_kwargs` without the switch, which is part of the choice."""
    return {name: value for name, value in request.template_kwargs.items() if name != SWITCH}


def with_thinking_prompt(messages: Sequence[Message], model: Abilities, think: bool | str | None) -> list[Message]:
    """The messages after the system prompt that makes this model think, if it has one and is to think.

    Its authors send that prompt as the first system message; the format allows several, so others stay, behind it.
    """
    if not think or model.thinking_prompt is None:
        return list(messages)
    return [Message("system", (Text(model.thinking_prompt),)), *messages]
