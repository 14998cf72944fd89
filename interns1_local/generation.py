"""One generation, the server's only door to the models: template, pictures, runner, stop strings, parsers, events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from interns1_local.chat.events import Event, Finish, FinishReason, ToolCallEvent, Usage
from interns1_local.chat.message import Image, Message, Text
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.suffix import ambiguous_suffix
from interns1_local.chat.template import ChatTemplate, MediaRef, ends_in_think
from interns1_local.chat.tool_parsers import detect
from interns1_local.engine.sampling import MAX_SEED, SamplingParams
from interns1_local.errors import BadRequest, ContextOverflow, Unsupported
from interns1_local.media.image import TileSpec, load_image, tile_image
from interns1_local.runners.model_scheduler import Lease, ModelScheduler
from interns1_local.runners.model_spec import ModelFacts, VisionFacts, read_model_facts
from interns1_local.runners.protocol import Chunk, GenerateRequest, TokenLogprob
from interns1_local.runners.protocol import Finish as RunnerFinish
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options, think_value
from interns1_local.tokenizer.detokenizer import IncrementalText

_SAMPLING_OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_NO_IMAGES = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


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


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do, as its metadata and its template in use say."""

    facts: ModelFacts
    template: ChatTemplate | None
    names: tuple[str, ...]


def abilities(model: StoredModel) -> Abilities:
    """The model's facts and template, read once for each version of it."""
    facts = read_model_facts(model.model_path, model.mmproj_path)
    template = _compiled(template_source(model, facts), facts.bos_token, facts.eos_token)
    names = [name for name in facts.capabilities if name not in ("tools", "thinking")]
    if template is not None and "embedding" not in names:
        names += ["tools"] * template.supports_tools + ["thinking"] * template.supports_thinking
    return Abilities(facts, template, tuple(names))


def template_source(model: StoredModel, facts: ModelFacts) -> str | None:
    """The Jinja in use: the model's TEMPLATE when it is Jinja, else the file's own, else Intern-S1's where it fits."""
    if model.template and is_jinja(model.template):
        return model.template
    if facts.chat_template:
        return facts.chat_template
    tokens = facts.metadata.get("tokenizer.ggml.tokens")
    return ChatTemplate.default_interns1().source if tokens is not None and "<|im_start|>" in tokens else None


def is_jinja(template: str) -> bool:
    """Whether a TEMPLATE is Jinja; Ollama's own are Go templates, whose variables start with a point."""
    if "{%" in template:
        return True
    opened = template.replace("{{-", "{{").split("{{")[1:]
    go_words = (".", "if ", "range ", "end", "else", "$", "with ", "template ", "define ", "block ", "json ")
    return bool(opened) and not any(part.lstrip().startswith(go_words) for part in opened)


async def generate_chat(scheduler: ModelScheduler, request: ChatRequest) -> AsyncGenerator[GenerationEvent]:
    """Answer a conversation. The last event is `Finish`; closing the iterator stops the generation."""
    started = time.monotonic()
    model = await asyncio.to_thread(abilities, request.model)
    options = _options(request.model, model.facts, request.options)
    template = _template(request, model)
    think = _think(request, options, template)
    messages = _messages(request)
    images = _images(messages, model.facts)
    prompt = template.render(messages, tools=request.tools or None, think=think, kwargs=request.template_kwargs)
    media = await asyncio.to_thread(_tiles, images, model.facts.vision)
    parts = [media[part.index] if isinstance(part, MediaRef) else part for part in prompt]
    parser = ResponseParser(
        reasoning=template.supports_thinking,
        starts_in_reasoning=ends_in_think(prompt),
        tool_grammar=detect(template.source) if request.tools else None,
    )
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        if request.context:
            parts = [await lease.runner.detokenize(list(request.context)), *parts]
        runner_request = GenerateRequest(parts, _sampling(options, request), _max_tokens(options, request.max_tokens))
        answer = _Answer(lease, runner_request, parser, options.get("stop", ()), started, request.return_context)
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield event


async def generate_text(scheduler: ModelScheduler, request: TextRequest) -> AsyncGenerator[GenerationEvent]:
    """Continue a text verbatim; pictures stand before it."""
    started = time.monotonic()
    model = await asyncio.to_thread(abilities, request.model)
    options = _options(request.model, model.facts, request.options)
    images = _images([Message("user", tuple(Image(data) for data in request.images))], model.facts)
    media = await asyncio.to_thread(_tiles, images, model.facts.vision)
    prompt: Any = [*media, request.prompt] if media else request.prompt
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=None)
    runner_request = GenerateRequest(prompt, _sampling(options, request), _max_tokens(options, request.max_tokens))
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        answer = _Answer(lease, runner_request, parser, options.get("stop", ()), started, False)
        async with aclosing(answer.events()) as events:
            async for event in events:
                yield event


def render_prompt(request: ChatRequest) -> tuple[str, int]:
    """The prompt as text, with `[img-N]` for its pictures, and how many there are."""
    model = abilities(request.model)
    options = _options(request.model, model.facts, request.options)
    template = _template(request, model)
    think = _think(request, options, template)
    messages = _messages(request)
    prompt = template.render(messages, tools=request.tools or None, think=think, kwargs=request.template_kwargs)
    text = "".join(f"[img-{part.index}]" if isinstance(part, MediaRef) else part for part in prompt)
    return text, sum(isinstance(part, MediaRef) for part in prompt)


class StopStrings:
    """Passes text until a stop string has come; holds back no more than what may still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def decode(self, text: str) -> tuple[str, bool]:
        """The text that is safe to pass on, and whether a stop string ended it."""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            passed, self._held = self._held[: min(places)], ""
            return passed, True
        keep = max((ambiguous_suffix(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed, False

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest


class _Answer:
    """The runner's chunks as events, for one request on one lease."""

    def __init__(
        self,
        lease: Lease,
        request: GenerateRequest,
        parser: ResponseParser,
        stops: Sequence[str],
        started: float,
        return_context: bool,
    ) -> None:
        self._lease = lease
        self._request = request
        self._parser = parser
        self._stops = StopStrings(stops)
        self._started = started
        self._return_context = return_context
        self._asked = time.monotonic()
        self._first: float | None = None
        self._ids: list[int] = []
        self._calls = 0

    async def events(self) -> AsyncGenerator[GenerationEvent]:
        text, stopped, end = IncrementalText(), False, None
        async with aclosing(_with_advice(self._lease.runner.generate(self._request))) as chunks:
            async for chunk in chunks:
                self._note(chunk)
                if chunk.logprobs:
                    yield Logprobs(tuple(chunk.logprobs))
                passed, stopped = self._stops.decode(text.decode(chunk.data))
                for event in self._counted(self._parser.decode(passed)):
                    yield event
                end = chunk.finish
                if stopped or end is not None:
                    break
        if not stopped:
            passed, stopped = self._stops.decode(text.flush())
            rest = passed if stopped else passed + self._stops.flush()
            for event in self._counted(self._parser.decode(rest)):
                yield event
        for event in self._counted(self._parser.flush()):
            yield event
        if self._return_context:
            yield ContextIds([*await self._prompt_ids(), *self._ids])
        yield await self._finish(None if stopped else end)

    def _note(self, chunk: Chunk) -> None:
        if self._first is None:
            self._first = time.monotonic()
        self._ids += chunk.ids

    def _counted(self, events: Sequence[Event]) -> Sequence[Event]:
        self._calls += sum(isinstance(event, ToolCallEvent) for event in events)
        return events

    async def _finish(self, end: RunnerFinish | None) -> Finish:
        """The runner's own figures; after a stop string, which ends the runner's stream, what was seen from here."""
        if end is None:
            now, first = time.monotonic(), self._first or time.monotonic()
            prompt_tokens = len(await self._prompt_ids()) + self._picture_tokens()
            end = RunnerFinish("stop", prompt_tokens, 0, len(self._ids), first - self._asked, now - first)
        reason: FinishReason = "length" if end.reason == "length" else "stop"
        if end.reason == "cancelled":
            reason = "cancelled"
        usage = Usage(
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            output_tokens=end.output_tokens,
            load_ns=int(self._lease.load_seconds * 1e9),
            prompt_ns=int(end.prompt_seconds * 1e9),
            decode_ns=int(end.decode_seconds * 1e9),
            total_ns=int((time.monotonic() - self._started) * 1e9),
        )
        return Finish("tool_calls" if self._calls and reason == "stop" else reason, usage)

    async def _prompt_ids(self) -> list[int]:
        prompt = self._request.prompt
        texts = [prompt] if isinstance(prompt, str) else [part for part in prompt if isinstance(part, str)]
        return [int(token["id"]) for text in texts for token in await self._lease.runner.tokenize(text)]

    def _picture_tokens(self) -> int:
        vision = self._lease.facts.vision
        prompt = self._request.prompt
        if vision is None or isinstance(prompt, str):
            return 0
        tiles = [part for part in prompt if not isinstance(part, str | int)]
        return sum(len(part) * vision.tokens_per_tile + 2 for part in tiles)


async def _with_advice(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except ContextOverflow as error:
            raise ContextOverflow(f"{error.message} (option num_ctx), or shorten the prompt") from error


@lru_cache(maxsize=32)
def _compiled(source: str | None, bos_token: str, eos_token: str) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)


def _template(request: ChatRequest, model: Abilities) -> ChatTemplate:
    name = request.name or request.model.name.short
    if "embedding" in model.names:
        raise BadRequest(f'"{name}" does not support chat')
    template = model.template
    if request.template:
        if not is_jinja(request.template):
            raise Unsupported("a Go template cannot be rendered by this version; write the template in Jinja")
        template = _compiled(request.template, model.facts.bos_token, model.facts.eos_token)
    if template is None:
        raise Unsupported(f'"{name}" has no chat template; give it a Jinja TEMPLATE in a Modelfile, or use raw mode')
    if request.tools and not template.supports_tools:
        raise BadRequest(f"{request.model.name.full} does not support tools")
    return template


def _think(request: ChatRequest, options: Mapping[str, Any], template: ChatTemplate) -> bool | str | None:
    """The request's choice, else the Modelfile's, else none: then the template decides."""
    if request.think is None:
        return options.get("think") if template.supports_thinking else None
    think = think_value(request.think)
    if think and not template.supports_thinking:
        raise BadRequest(f'"{request.name or request.model.name.short}" does not support thinking')
    return think if template.supports_thinking else None


def _messages(request: ChatRequest) -> list[Message]:
    """The Modelfile's messages and system text around the request's."""
    messages = list(request.messages)
    if not request.with_model_messages:
        return messages
    stored = [Message(str(m.get("role", "user")), (Text(str(m.get("content", ""))),)) for m in request.model.messages]
    if request.model.system and not (messages and messages[0].role == "system"):
        stored.insert(0, Message("system", (Text(request.model.system),)))
    elif messages and messages[0].role == "system":
        return [messages[0], *stored, *messages[1:]]
    return [*stored, *messages]


def _images(messages: Sequence[Message], facts: ModelFacts) -> list[bytes]:
    media = [part for message in messages for part in message.media]
    if any(not isinstance(part, Image) for part in media):
        raise Unsupported("video input is not supported yet by this version")
    if media and facts.vision is None:
        raise Unsupported(_NO_IMAGES)
    return [part.data for part in media]


def _tiles(images: Sequence[bytes], vision: VisionFacts | None) -> list[Any]:
    if not images or vision is None:
        return []
    spec = TileSpec(vision.tile_size, vision.min_patches, vision.max_patches, vision.use_thumbnail)
    return [tile_image(load_image(data), spec) for data in images]


def _options(model: StoredModel, facts: ModelFacts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options in force: the request's, over the Modelfile's, over the model file's."""
    return {**facts.sampling_defaults, **check_options(model.params), **check_options(asked)}


def _sampling(options: Mapping[str, Any], request: ChatRequest | TextRequest) -> SamplingParams:
    """SamplingParams holds Ollama's defaults for what is not set. A negative seed means none, as in Ollama."""
    seed = options.get("seed", -1)
    return SamplingParams(
        **{name: options[name] for name in _SAMPLING_OPTIONS if name in options},
        seed=None if seed < 0 else seed % (MAX_SEED + 1),
        logprobs=request.logprobs,
        logit_bias=dict(request.logit_bias),
    )


def _max_tokens(options: Mapping[str, Any], asked: int | None) -> int | None:
    limit = options.get("num_predict", -1) if asked is None else asked
    return None if limit < 0 else limit
