"""Vectors and scores of whole texts: embeddings, similarity, and what a reward model thinks of a conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.chat.message import Message, Text
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.abilities import abilities
from interns1_local.generation.adapter_choice import adapter_asked
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.store.model_store import StoredModel

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts, or token ids, to be embedded. `dimensions` keeps the first so many figures of each vector."""

    model: StoredModel
    inputs: Sequence[str | Sequence[int]]
    truncate: bool = True
    dimensions: int | None = None
    normalize: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """float32[n, dimensions], the tokens of all texts together, and nanoseconds."""

    vectors: Vectors
    tokens: int
    load_ns: int
    total_ns: int


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Conversations for a reward model."""

    model: StoredModel
    conversations: Sequence[Sequence[Message]]
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    values: list[float]
    tokens: int
    load_ns: int
    total_ns: int


async def embed(scheduler: ModelScheduler, request: EmbedRequest) -> Embeddings:
    """A vector for each input, of length 1 unless that was not wanted."""
    started = time.monotonic()
    if request.dimensions is not None and request.dimensions < 1:
        raise BadRequest(f"dimensions must be at least 1; it is {request.dimensions}")
    adaptation = adapter_asked(request.model, request.options)
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        vectors, tokens = await lease.runner.embed(request.inputs, request.truncate, adaptation)
        load_ns = int(lease.load_seconds * 1e9)
    if request.normalize:
        vectors = normalized(vectors)
    if request.dimensions is not None and request.dimensions < vectors.shape[-1]:
        vectors = vectors[:, : request.dimensions]
        vectors = normalized(vectors) if request.normalize else vectors
    return Embeddings(vectors, tokens, load_ns, int((time.monotonic() - started) * 1e9))


async def score(scheduler: ModelScheduler, request: ScoreRequest) -> Scores:
    """What a reward model gives each conversation; more is better."""
    started = time.monotonic()
    model = await asyncio.to_thread(abilities, request.model)
    if "score" not in model.names or model.template is None:
        raise Unsupported(f'"{request.model.name.short}" does not support scores: it is not a reward model')
    if not request.conversations or not all(request.conversations):
        raise BadRequest("a conversation to be scored has no messages")
    if any(message.media for messages in request.conversations for message in messages):
        raise Unsupported("a reward model reads texts only")
    adaptation = adapter_asked(request.model, request.options)
    template = model.template
    rendered = [template.render(messages, add_generation_prompt=False) for messages in request.conversations]
    texts = ["".join(part for part in parts if isinstance(part, str)) for parts in rendered]
    async with scheduler.acquire(request.model.name.short, request.options, request.keep_alive) as lease:
        values, tokens = await lease.runner.score(texts, adaptation)
        load_ns = int(lease.load_seconds * 1e9)
    return Scores(values, tokens, load_ns, int((time.monotonic() - started) * 1e9))


async def relevance(
    scheduler: ModelScheduler,
    model: StoredModel,
    query: str,
    documents: Sequence[str],
    options: Mapping[str, Any] | None = None,
    keep_alive: float | None = None,
) -> tuple[list[float], int]:
    """How well each document answers the query, and the tokens read.

    A reward model scores the pair as a conversation; for any other model it is the cosine of the vectors.
    """
    facts = await asyncio.to_thread(abilities, model)
    if "score" in facts.names:
        pairs = [(Message("user", (Text(query),)), Message("assistant", (Text(text),))) for text in documents]
        scores = await score(scheduler, ScoreRequest(model, pairs, options or {}, keep_alive))
        return scores.values, scores.tokens
    found = await embed(
        scheduler, EmbedRequest(model, [query, *documents], options=options or {}, keep_alive=keep_alive)
    )
    return [float(value) for value in found.vectors[1:] @ found.vectors[0]], found.tokens


def normalized(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
