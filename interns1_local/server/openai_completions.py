"""POST /v1/completions: texts or token ids continued as they are, without a template."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.events import Content, Finish
from interns1_local.engine.sampling import MAX_LOGPROBS
from interns1_local.errors import BadRequest
from interns1_local.generation import (
    Echo,
    GenerationEvent,
    Logprobs,
    TextRequest,
    check_number,
    infill_prompt,
    text_choices,
    usage_of,
)
from interns1_local.server.answer_fields import openai_format
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.legacy_logprobs import LegacyLogprobs, joined
from interns1_local.server.openai_chat import Completion, read_n, usage_json, wants_usage
from interns1_local.server.openai_messages import read_logit_bias, read_options
from interns1_local.server.services import keep_alive_seconds, services_of
from interns1_local.server.streaming import SSE, Json, openai_event_error, sse_event, stream, until_disconnect
from interns1_local.store.model_store import StoredModel

MAX_CONTINUATIONS = 2048

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The best `n` of `best_of` continuations of each prompt; `logprobs` is how many alternatives are shown."""

    requests: list[TextRequest]
    n: int
    best_of: int
    logprobs: int | None

    @property
    def total(self) -> int:
        """Continuations that are made."""
        return len(self.requests) * self.best_of


async def completions(request: Request) -> Response:
    services = services_of(request)
    fields = await read_fields(request, "CompletionRequest")
    name = fields.required("model")
    model = await services.model(name)
    wanted = await asyncio.to_thread(_read, fields, model)
    choices = text_choices(services.scheduler, wanted.requests, wanted.best_of)
    completion = Completion(name, id=f"cmpl-{secrets.randbelow(10**9)}")
    if not fields.flag("stream"):
        return GoJSONResponse(await until_disconnect(request, _whole(completion, choices, wanted)))
    if wanted.best_of != wanted.n:
        raise BadRequest("best_of cannot be streamed: all answers are needed to find the best; leave stream or it out")
    return await stream(request, _events(completion, choices, wanted, wants_usage(fields)), SSE, openai_event_error)


def _read(fields: Fields, model: StoredModel) -> Wanted:
    prompts = read_prompts(fields)
    n = read_n(fields)
    best_of = fields.integer("best_of")
    best_of = n if best_of is None else check_number(best_of, "best_of")
    if best_of < n:
        raise BadRequest(f"best_of ({best_of}) must not be less than n ({n})")
    if len(prompts) * best_of > MAX_CONTINUATIONS:
        raise BadRequest(
            f"{len(prompts)} prompts with {best_of} answers each are more than {MAX_CONTINUATIONS}; ask in parts"
        )
    logprobs = fields.integer("logprobs")
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise BadRequest(f"logprobs must be between 0 and {MAX_LOGPROBS}; it is {logprobs}")
    echo = bool(fields.flag("echo"))
    if suffix := fields.text("suffix"):
        if echo:
            raise BadRequest("echo and suffix cannot be used together; leave one of them out")
        prompts = [infill_prompt(model, _text(prompt), suffix) for prompt in prompts]
    limit = fields.integer("max_completion_tokens")
    first = TextRequest(
        model,
        prompts[0],
        options=read_options(fields),
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        max_tokens=fields.integer("max_tokens") if limit is None else limit,
        # To find the best ones, all are judged.
        logprobs=0 if logprobs is None and best_of > n else logprobs,
        logit_bias=read_logit_bias(fields),
        min_tokens=fields.integer("min_tokens") or 0,
        ignore_eos=bool(fields.flag("ignore_eos")),
        echo=echo,
        format=openai_format(fields),
    )
    return Wanted([replace(first, prompt=prompt) for prompt in prompts], n, best_of, logprobs)


def read_prompts(fields: Fields) -> list[Prompt]:
    """`prompt`: a text, token ids, or a list of texts or of lists of token ids."""
    value = fields.get("prompt")
    whole = isinstance(value, str) or (isinstance(value, list) and bool(value) and _are_ids(value))
    prompts = [value] if whole else value
    if not isinstance(prompts, list) or not prompts:
        raise BadRequest("prompt is required: a text, token ids, or a list of texts or of lists of token ids")
    for prompt in prompts:
        if not isinstance(prompt, str) and not (isinstance(prompt, list) and _are_ids(prompt)):
            fields.refuse(prompt, "prompt", "string or []int")
        if not prompt:
            raise BadRequest("a prompt is empty: there is nothing to continue")
    return list(prompts)


def _are_ids(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _text(prompt: Prompt) -> str:
    if not isinstance(prompt, str):
        raise BadRequest("suffix needs prompts that are texts")
    return prompt


async def _events(completion: Completion, choices: Any, wanted: Wanted, include_usage: bool) -> AsyncGenerator[bytes]:
    """Each continuation piece by piece, the usage if asked for, [DONE]."""
    logprobs = [LegacyLogprobs(bool(wanted.logprobs)) for _ in range(wanted.total)]
    waiting: list[list[Logprobs]] = [[] for _ in range(wanted.total)]
    ends: dict[int, Finish] = {}
    async with aclosing(choices):
        async for index, event in choices:
            text, reason, found = "", None, None
            match event:
                case Logprobs(part="content") if wanted.logprobs is not None:
                    waiting[index].append(event)
                    continue
                case Echo(text, tokens) if wanted.logprobs is not None:
                    found = logprobs[index].json(tokens, begins_prompt=True)
                case Echo(text):
                    pass
                case Content(text):
                    if waiting[index]:
                        found = logprobs[index].json([token for entry in waiting[index] for token in entry.tokens])
                        waiting[index] = []
                case Finish():
                    ends[index], reason = event, _reason(event)
                case _:
                    continue
            choice = {"text": text, "index": index, "logprobs": found, "finish_reason": reason}
            yield sse_event(completion.head("text_completion") | {"choices": [choice]})
    if include_usage:
        usage = usage_json(usage_of([ends[index] for index in range(wanted.total)], wanted.best_of))
        yield sse_event(completion.head("text_completion") | {"choices": [], "usage": usage})
    yield sse_event("[DONE]")


async def _whole(completion: Completion, choices: Any, wanted: Wanted) -> Json:
    answers: list[list[GenerationEvent]] = [[] for _ in range(wanted.total)]
    async with aclosing(choices):
        async for index, event in choices:
            answers[index].append(event)
    finishes = [event for answer in answers for event in answer if isinstance(event, Finish)]
    assert len(finishes) == wanted.total, "every generation ends with Finish"
    chosen: list[Sequence[GenerationEvent]] = []
    for start in range(0, wanted.total, wanted.best_of):
        group = answers[start : start + wanted.best_of]
        chosen += group if wanted.best_of == wanted.n else sorted(group, key=_mean_logprob, reverse=True)[: wanted.n]
    return completion.head("text_completion") | {
        "choices": [_choice(index, answer, wanted.logprobs) for index, answer in enumerate(chosen)],
        "usage": usage_json(usage_of(finishes, wanted.best_of)),
    }


def _choice(number: int, events: Sequence[GenerationEvent], logprobs: int | None) -> Json:
    lists = LegacyLogprobs(bool(logprobs))
    texts: list[str] = []
    pieces = []
    reason = "stop"
    for event in events:
        match event:
            case Echo(text, tokens):
                texts.append(text)
                pieces.append(lists.json(tokens, begins_prompt=True))
            case Content(text):
                texts.append(text)
            case Logprobs(tokens, "content"):
                pieces.append(lists.json(tokens))
            case Finish():
                reason = _reason(event)
    shown = joined(pieces or [lists.json(())]) if logprobs is not None else None
    return {"text": "".join(texts), "index": number, "logprobs": shown, "finish_reason": reason}


def _mean_logprob(events: Sequence[GenerationEvent]) -> float:
    """Of the tokens that were chosen; an answer without any is as likely as its end, which nobody measured."""
    values = [token.logprob for event in events if isinstance(event, Logprobs) for token in event.tokens]
    return sum(values) / len(values) if values else 0.0


def _reason(finish: Finish) -> str:
    return "length" if finish.reason == "length" else "stop"
