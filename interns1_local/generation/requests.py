"""What is asked of a generation, and the events that only some protocols report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from interns1_local.chat.events import Event
from interns1_local.chat.message import Image, Message, Video
from interns1_local.generation.constraints import Constraint
from interns1_local.runners.protocol import TokenLogprob
from interns1_local.store.model_store import StoredModel

Part = Literal["content", "reasoning", "other"]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What the model thought of tokens that it chose; the text of `part` that they make comes next.

    `other` are marks, white space that is left out, calls of tools, and what belongs to a stop string.
    """

    tokens: tuple[TokenLogprob, ...]
    part: Part = "content"


@dataclass(frozen=True, slots=True)
class Echo:
    """The prompt, before its continuation. `tokens` are its own, if asked for: nothing comes before the first."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextIds:
    """The ids of the prompt and the answer: what /api/generate hands back as `context`."""

    ids: list[int]


GenerationEvent = Event | Logprobs | Echo | ContextIds


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to be continued. `name` is the model's name as the client wrote it.

    `format` holds for what follows the thought. `tool_choice` required makes the model call, the tool `tool_name` if
    that is given; none shows it the tools and keeps it from calling them. `think_budget` closes a thought after so many
    tokens; `max_tokens` counts thought and answer, `max_answer_tokens` the answer alone. `truncate` lets the oldest
    messages go when all of them do not fit.
    """

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
    min_tokens: int = 0
    ignore_eos: bool = False
    format: Constraint | None = None
    tool_choice: Literal["auto", "none", "required"] = "auto"
    tool_name: str | None = None
    parallel_tool_calls: bool = True
    think_budget: int | None = None
    truncate: bool = False
    max_answer_tokens: int | None = None
    with_model_messages: bool = True
    context: Sequence[int] | None = None
    return_context: bool = False


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A text, or token ids, to be continued as they are: no template, no parsing. `echo` gives them back first."""

    model: StoredModel
    prompt: str | Sequence[int]
    images: Sequence[Image | Video] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None
    max_tokens: int | None = None
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    echo: bool = False
    format: Constraint | None = None
