"""What is asked of a generation, and the events that only some protocols report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from interns1_local.chat.events import Event
from interns1_local.chat.message import Message
from interns1_local.runners.protocol import TokenLogprob
from interns1_local.store.model_store import StoredModel


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What the model thought of the tokens just chosen."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class ContextIds:
    """The ids of the prompt and the answer: what /api/generate hands back as `context`."""

    ids: list[int]


GenerationEvent = Event | Logprobs | ContextIds


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be continued. `name` is the model's name as the client wrote it."""

    model: StoredModel
    messages: Sequence[Message]
    name: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    think: bool | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    max_tokens: int | None = None
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    with_model_messages: bool = True
    context: Sequence[int] | None = None
    return_context: bool = False


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A text to be continued as it is: no template, no parsing."""

    model: StoredModel
    prompt: str
    images: Sequence[bytes] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    max_tokens: int | None = None
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
