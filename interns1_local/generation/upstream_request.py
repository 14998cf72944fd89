"""A request as the OpenAI-compatible API of an upstream engine takes it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from interns1_local.chat.message import Image, Message, Part, Text, Video
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.adapter_choice import adapter_choice
from interns1_local.generation.constraints import Constraint
from interns1_local.generation.prepare import all_messages, thought_budget, token_limit
from interns1_local.generation.requests import ChatRequest, TextRequest
from interns1_local.generation.thinking import SWITCH, template_variables

Json = dict[str, Any]

# Ours -> what vLLM, SGLang and LMDeploy call it. What nobody set is not sent: the engine knows its model's defaults.
_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}
_IMAGE_TYPES = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)


def chat_body(request: ChatRequest, options: Mapping[str, Any], think: bool | str | None, seed: int | None) -> Json:
    """The body of /chat/completions. Raises Unsupported for what no such API has."""
    name = request.name or request.model.name.short
    if request.context:
        raise Unsupported(f'"{name}" takes no context of token ids: send the conversation to /api/chat instead')
    if request.template:
        raise Unsupported(
            f'"{name}" takes no template: its engine renders the prompt; use raw mode for one of your own'
        )
    body: Json = {"messages": messages_json(all_messages(request)), "stream_options": {"include_usage": True}}
    body |= _shared(request, options, seed)
    if request.tools:
        body |= {"tools": list(request.tools), "tool_choice": _tool_choice(request)}
        body |= {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
    elif request.tool_choice == "required":
        raise BadRequest("tool_choice asks for a call, but the request has no tools")
    kwargs = template_variables(request)
    if think is not None:
        # Which of the two an engine reads differs by its version.
        kwargs[SWITCH] = body[SWITCH] = bool(think)
    if isinstance(think, str):
        body["reasoning_effort"] = "high" if think == "max" else think
    if kwargs:
        body["chat_template_kwargs"] = kwargs
    budget = thought_budget(request, options)
    if budget is not None:
        body |= {"think_budget": budget, "thinking_token_budget": budget}
    if request.max_answer_tokens is not None:
        body["max_answer_tokens"] = request.max_answer_tokens
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return body


def text_body(request: TextRequest, options: Mapping[str, Any], seed: int | None) -> Json:
    """The body of /completions."""
    name = request.model.name.short
    if request.images:
        raise Unsupported(f'"{name}" takes pictures in a conversation only: its engine puts them into the prompt')
    if request.echo and (request.logprobs is not None or not isinstance(request.prompt, str)):
        raise Unsupported(f'"{name}" can echo texts only, and without logprobs')
    prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
    body = {"prompt": prompt, "stream_options": {"include_usage": True}, **_shared(request, options, seed)}
    # Where nothing is said, the old API stops after 16 tokens.
    body.setdefault("max_tokens", None)
    return body | ({} if request.logprobs is None else {"logprobs": request.logprobs})


def messages_json(messages: Sequence[Message]) -> list[Json]:
    """OpenAI's messages. A call without an id gets one, and the result that answers it the same."""
    written: list[Json] = []
    waiting: list[tuple[str, str]] = []
    for message in messages:
        role = "tool" if message.role == "environment" else message.role
        entry: Json = {"role": role, "content": _content(message.content)}
        if message.reasoning:
            entry["reasoning_content"] = message.reasoning
        if message.tool_calls:
            waiting = []
            entry["tool_calls"] = []
            for call in message.tool_calls:
                call_id = call.id or f"call_{len(written)}_{len(waiting)}"
                waiting.append((call_id, call.name))
                function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
                entry["tool_calls"].append({"id": call_id, "type": "function", "function": function})
        if role == "tool":
            answered = _answered(message, waiting)
            waiting = [pair for pair in waiting if pair[0] != answered]
            entry["tool_call_id"] = answered
        if message.name:
            entry["name"] = message.name
        written.append(entry)
    return written


def _answered(message: Message, waiting: Sequence[tuple[str, str]]) -> str:
    """The id of the call that a result answers: as it says, else by its tool's name, else the first one's."""
    if message.tool_call_id:
        return message.tool_call_id
    by_name = [call_id for call_id, name in waiting if name == message.name]
    return next(iter([*by_name, *(call_id for call_id, _ in waiting)]), "call_0")


def _content(parts: Sequence[Part]) -> str | list[Json]:
    if all(isinstance(part, Text) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [_part(part) for part in parts]


def _part(part: Part) -> Json:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(data):
            kind = next((kind for start, kind in _IMAGE_TYPES if data.startswith(start)), "image/png")
            return {"type": "image_url", "image_url": {"url": _data_url(kind, data)}}
        case Video(data) if data:
            return {"type": "video_url", "video_url": {"url": _data_url("video/mp4", data)}}
    raise Unsupported("a film that is sent as frames cannot be passed on to an upstream engine; send its file")


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _shared(request: ChatRequest | TextRequest, options: Mapping[str, Any], seed: int | None) -> Json:
    # None is kept here for such a model: to ask for one is an error.
    adapter_choice(request.model, options)
    body: Json = {theirs: options[ours] for ours, theirs in _OPTIONS.items() if ours in options}
    limit = token_limit(options, request.max_tokens)
    if limit is not None:
        body["max_tokens"] = limit
    if seed is not None:
        body["seed"] = seed
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.min_tokens > 0:
        body["min_tokens"] = request.min_tokens
    if request.ignore_eos:
        body["ignore_eos"] = True
    return body | ({} if request.format is None else format_json(request.format))


def format_json(constraint: Constraint) -> Json:
    """Of JSON OpenAI's fields, which all engines know; of the rest vLLM's (also ours), and SGLang's beside them."""
    match constraint.kind:
        case "json":
            return {"response_format": {"type": "json_object"}}
        case "json_schema":
            schema = {"name": "answer", "schema": constraint.value, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case "regex":
            return {"structured_outputs": {"regex": constraint.value}, "regex": constraint.value}
        case "choice":
            pattern = "|".join(re.escape(str(text)) for text in constraint.value)
            return {"structured_outputs": {"choice": constraint.value}, "regex": f"({pattern})"}
        case _:
            return {"structured_outputs": {"grammar": constraint.value}, "ebnf": constraint.value}


def _tool_choice(request: ChatRequest) -> str | Json:
    if request.tool_choice == "required" and request.tool_name:
        return {"type": "function", "function": {"name": request.tool_name}}
    return request.tool_choice
