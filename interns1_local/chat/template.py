"""A conversation to the prompt text that a model was trained on, through the model's own Jinja template."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta

from interns1_local.chat.message import Image, Message, Text, ToolCall
from interns1_local.chat.template_environment import BoundedRange, TemplateEnvironment
from interns1_local.chat.template_limits import MAX_OUTPUT, limits
from interns1_local.errors import BadRequest, Unsupported

# What templates write for a picture or a film. In a template's source each is replaced by a mark that nobody can write.
_MEDIA = re.compile(r"(?:<img>)?<IMG_CONTEXT>(?:</img>)?|<\|image_pad\|>|<\|video_pad\|>|<image>|<video>")
_RESERVED = ("messages", "tools", "range", "raise_exception", "strftime_now")


@dataclass(frozen=True, slots=True)
class MediaRef:
    """The place of the i-th picture or film of a conversation in its prompt."""

    index: int


class ChatTemplate:
    """One model's template, compiled once. ChatTemplate(source).render([Message("user", (Text("Hi"),))])"""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._spellings = list(dict.fromkeys(found.group() for found in _MEDIA.finditer(source)))
        secret = secrets.token_hex(8)
        self._end_mark = f"\uf8ff{secret}\uf8ff"
        self._mark = f"\uf8ff{secret}:%d\uf8ff"
        self._marks = re.compile(self._mark.replace("%d", r"\d+"))
        environment = TemplateEnvironment()
        try:
            variables = meta.find_undeclared_variables(environment.parse(source))
            marked = _MEDIA.sub(lambda found: self._mark % self._spellings.index(found.group()), source)
            self._template: Template = environment.from_string(marked)
        except (TemplateSyntaxError, TemplateError, RecursionError) as error:
            raise Unsupported(f"the model's chat template is not valid Jinja: {error}") from error
        self.supports_tools = "tools" in variables
        self.supports_thinking = "enable_thinking" in variables or ("<think>" in source and "</think>" in source)

    @classmethod
    def default_interns1(cls) -> ChatTemplate:
        """The template of Intern-S1, for files that carry none."""
        return cls(files("interns1_local.chat").joinpath("interns1.jinja").read_text(encoding="utf-8"))

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        think: bool | str | None = None,
        add_generation_prompt: bool = True,
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[str | MediaRef]:
        """The prompt as text and media, in order.

        A conversation that ends with an assistant's words, when a prompt is asked for, is continued after them.
        `think=None` leaves the choice to the template; `kwargs` go to the template and override `think`.
        """
        media = sum(len(message.media) for message in messages)
        turns = _with_tool_names(messages)
        continues = add_generation_prompt and bool(turns) and _is_prefill(turns[-1])
        if continues:
            # Found again behind whatever the template does to the words: it may trim them or close the turn.
            turns[-1] = replace(turns[-1], content=(*turns[-1].content, Text(self._end_mark)))
        variables: dict[str, Any] = {
            **self._tokens,
            "messages": [self._message(message) for message in turns],
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt and not continues,
            "range": BoundedRange(),
            **_thinking(think),
            **_checked(kwargs or {}),
        }
        text = self._render(variables)
        if continues:
            text, found, _ = text.partition(self._end_mark)
            if not found:
                raise Unsupported(
                    "the model's chat template drops the assistant's last message: it cannot be continued"
                )
        return self._split(text, media)

    def _render(self, variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        size = 0
        limits.start()
        try:
            for piece in self._template.generate(variables):
                size += len(piece)
                if size > MAX_OUTPUT:
                    raise BadRequest(f"the prompt grew beyond {MAX_OUTPUT} characters in the model's chat template")
                pieces.append(piece)
        except BadRequest:
            raise
        except (TemplateError, ArithmeticError, LookupError, AttributeError, TypeError, ValueError) as error:
            raise BadRequest(f"the model's chat template cannot render this conversation: {error}") from error
        except (RecursionError, MemoryError) as error:
            raise BadRequest("the model's chat template needs too much for this conversation") from error
        return "".join(pieces)

    def _message(self, message: Message) -> dict[str, Any]:
        fields: dict[str, Any] = {"role": message.role, "content": self._content(message)}
        if message.reasoning is not None:
            # Both names, as transformers gives them.
            fields |= {"thinking": message.reasoning, "reasoning_content": message.reasoning}
        if message.tool_calls:
            fields["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        if message.name is not None:
            fields["name"] = message.name
        if message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        return fields

    def _content(self, message: Message) -> str | list[dict[str, Any]]:
        if not message.media:
            return message.text
        if not self._spellings:
            # The template knows nothing of pictures, so they are put where they stand, as a line of their own.
            return "".join(part.text if isinstance(part, Text) else f"{self._mark % 0}\n" for part in message.content)
        kinds = (
            {"type": "text", "text": part.text}
            if isinstance(part, Text)
            else {"type": "image" if isinstance(part, Image) else "video"}
            for part in message.content
        )
        return list(kinds)

    def _split(self, text: str, media: int) -> list[str | MediaRef]:
        if not media:
            # No place to fill: marks are the template's own prose about pictures.
            return [self._marks.sub(lambda found: self._spelling(found.group()), text)]
        texts = self._marks.split(text)
        if len(texts) - 1 != media:
            raise Unsupported(
                f"the model's chat template placed {len(texts) - 1} of {media} pictures and films; "
                "put them into a user's message"
            )
        prompt: list[str | MediaRef] = [texts[0]] if texts[0] else []
        for index, part in enumerate(texts[1:]):
            prompt.append(MediaRef(index))
            if part:
                prompt.append(part)
        return prompt

    def _spelling(self, mark: str) -> str:
        return self._spellings[int(mark.strip("\uf8ff").rpartition(":")[2])]


def ends_in_think(rendered: str | Sequence[str | MediaRef]) -> bool:
    """Whether the prompt opened a thought, so that the model's first words are inside it."""
    last = rendered if isinstance(rendered, str) else (rendered[-1] if rendered else "")
    return isinstance(last, str) and last.rstrip().endswith("<think>")


def _thinking(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, str):
        return {"enable_thinking": True, "reasoning_effort": think}
    return {"enable_thinking": think}


def _checked(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    reserved = [name for name in _RESERVED if name in kwargs]
    if reserved:
        raise BadRequest(
            f"chat_template_kwargs may not hold {', '.join(reserved)}: the request has its own place for it"
        )
    # None for thinking is "no choice made"; a template would take it for "off".
    return {name: value for name, value in kwargs.items() if not (name == "enable_thinking" and value is None)}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if call.id is not None:
        fields["id"] = call.id
    return fields


def _with_tool_names(messages: Iterable[Message]) -> list[Message]:
    """Give each tool result the name of the call that it answers, by its id, else by its place among the results."""
    named: list[Message] = []
    by_id: dict[str, str] = {}
    unanswered: list[ToolCall] = []
    for message in messages:
        if message.tool_calls:
            unanswered = list(message.tool_calls)
            by_id |= {call.id: call.name for call in message.tool_calls if call.id is not None}
        if message.role in ("tool", "environment"):
            call = unanswered.pop(0) if unanswered else None
            name = message.name or by_id.get(message.tool_call_id or "")
            if name is None and message.tool_call_id is None and call is not None:
                name = call.name
            message = replace(message, name=name)
        named.append(message)
    return named


def _is_prefill(message: Message) -> bool:
    return message.role == "assistant" and not message.tool_calls and bool(message.text)
