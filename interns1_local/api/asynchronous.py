"""Interns1 for programs that run an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast, overload

import numpy as np
import numpy.typing as npt

from interns1_local.api.answer import Answer, collect
from interns1_local.api.arguments import ChatArguments, Options, TextArguments, read_arguments, read_options
from interns1_local.api.conversation import Conversation, Turn, is_batch, read_conversation
from interns1_local.api.model import open_model
from interns1_local.config import FOREVER, load_settings
from interns1_local.errors import BadRequest
from interns1_local.generation import ChatRequest, GenerationEvent, TextRequest, generate_chat, generate_text
from interns1_local.generation.pool import EmbedRequest, ScoreRequest, embed, score
from interns1_local.runners.memory import has_room
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.model_spec import ModelSpec

Vectors = npt.NDArray[np.float32]
Batch = list[str] | Sequence[Sequence[Turn]]

# Requests of one batch that are under way together; the worker takes as many of them at once as it has room for.
AT_ONCE = 256


class AsyncInterns1:
    """One model in a process of its own: loaded at the first use, and in memory until it is closed.

        async with AsyncInterns1("nano") as model:
            print(await model.chat("What is 27 + 15?"))

    Args:
        model: the name of a stored model (`nano` is included), or the path of a GGUF file or of a Modelfile.
        mmproj: the vision file that goes with a GGUF file.
        options: Ollama's options for loading and sampling, such as num_ctx and temperature.
    """

    def __init__(
        self, model: str | Path = "nano", *, mmproj: str | Path | None = None, options: Options | None = None
    ) -> None:
        self._settings = replace(load_settings(), keep_alive=FOREVER)
        self._options = read_options(options)
        self._model = open_model(model, Path(mmproj) if mmproj else None, self._settings)
        self._scheduler: ModelScheduler | None = None
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> AsyncInterns1:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the model's process; the next use would start it again."""
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            await scheduler.close()

    @overload
    async def chat(self, messages: Conversation, **arguments: Unpack[ChatArguments]) -> Answer: ...
    @overload
    async def chat(self, messages: Batch, **arguments: Unpack[ChatArguments]) -> list[Answer]: ...
    async def chat(self, messages: Conversation | Batch, **arguments: Unpack[ChatArguments]) -> Answer | list[Answer]:
        """Answer a conversation, or a list of conversations together.

        Args:
            messages: a text; or messages, dicts as OpenAI has them; or a list of such conversations.
            arguments: see ChatArguments. Those that are options, such as temperature, are for this call only.

        The first error of a batch ends the others.
        """
        if not is_batch(messages):
            return await self._chat(cast(Conversation, messages), arguments)
        if arguments.get("images"):
            raise BadRequest("images= goes with one conversation; in a batch they belong to the messages")
        answers = [asyncio.create_task(self._chat(one, arguments)) for one in cast(Batch, messages)]
        try:
            return list(await asyncio.gather(*answers))
        except BaseException:
            for answer in answers:
                answer.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
            raise

    async def stream(
        self, messages: Conversation, **arguments: Unpack[ChatArguments]
    ) -> AsyncGenerator[GenerationEvent]:
        """The events of one answer as they come: Reasoning, Content, the pieces of calls, and at last Finish.

        They are the classes of interns1_local.chat.events; the arguments are those of `chat`.
        """
        asked, options = read_arguments(arguments, ChatRequest)
        conversation = read_conversation(messages, arguments.get("images", ()))
        request = ChatRequest(self._model, conversation, options={**self._options, **options}, **asked)
        async with aclosing(generate_chat(self._started(), request)) as events:
            async for event in events:
                yield event

    async def generate(self, prompt: str, **arguments: Unpack[TextArguments]) -> Answer:
        """Continue a text as it is: no template, no parsing."""
        if not isinstance(prompt, str):
            raise BadRequest(f"generate continues a text; given was {type(prompt).__name__}")
        asked, options = read_arguments(arguments, TextRequest)
        images = arguments.get("images")
        pictures = read_conversation("", images)[0].media if images else ()
        request = TextRequest(self._model, prompt, pictures, {**self._options, **options}, **asked)
        async with self._gate, aclosing(generate_text(self._started(), request)) as events:
            return await collect(events)

    async def embed(
        self, texts: str | Sequence[str], *, dimensions: int | None = None, truncate: bool = True
    ) -> Vectors:
        """The vector of a text, float32[n], or of several, float32[texts, n]; each of length 1.

        Args:
            dimensions: keep the first so many numbers of each vector.
            truncate: cut texts that are longer than the context; else they are an error.
        """
        inputs = [texts] if isinstance(texts, str) else list(texts)
        if not all(isinstance(text, str) for text in inputs):
            raise BadRequest("embed takes a text or a list of texts")
        request = EmbedRequest(self._model, inputs, truncate, dimensions, options=self._options)
        vectors = (await embed(self._started(), request)).vectors
        return vectors[0] if isinstance(texts, str) else vectors

    @overload
    async def score(self, conversations: Sequence[Turn]) -> float: ...
    @overload
    async def score(self, conversations: Sequence[Sequence[Turn]]) -> list[float]: ...
    async def score(self, conversations: Any) -> float | list[float]:
        """What a reward model gives a conversation, or each of a list of them; more is better."""
        batch = is_batch(conversations)
        given = conversations if batch else [conversations]
        request = ScoreRequest(self._model, [read_conversation(one) for one in given], self._options)
        values = (await score(self._started(), request)).values
        return values if batch else values[0]

    async def _chat(self, messages: Conversation, arguments: ChatArguments) -> Answer:
        async with self._gate, aclosing(self.stream(messages, **arguments)) as events:
            return await collect(events)

    def _started(self) -> ModelScheduler:
        if self._scheduler is None:
            spec = ModelSpec.of(self._model, self._options)
            self._scheduler = ModelScheduler(self._settings, lambda name: spec, has_room=has_room)
        return self._scheduler
