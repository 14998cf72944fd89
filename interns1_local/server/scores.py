"""POST /api/score, /v1/score and /v1/rerank: reward models, and documents in the order in which they answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.message import Message
from interns1_local.errors import BadRequest
from interns1_local.generation.pool import EmbedRequest, ScoreRequest, Scores, embed, relevance, score
from interns1_local.server import openai_messages
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.services import Services, keep_alive_seconds, services_of
from interns1_local.server.streaming import until_disconnect


async def ollama_score(request: Request) -> Response:
    """`{model, messages}` -> `{model, score}`; `{model, conversations}` -> `{model, scores}`."""
    fields = await read_fields(request, "ScoreRequest")
    name, conversations, is_one = _conversations(fields)
    found = await until_disconnect(request, _score(services_of(request), fields, name, conversations))
    figures = {"total_duration": found.total_ns, "load_duration": found.load_ns, "prompt_eval_count": found.tokens}
    answer = {"score": found.values[0]} if is_one else {"scores": found.values}
    return GoJSONResponse({"model": name, **answer, **figures})


async def openai_score(request: Request) -> Response:
    """Conversations for a reward model, as above; or `text_1` and `text_2`, as vLLM has them: their cosine."""
    services = services_of(request)
    fields = await read_fields(request, "ScoreRequest")
    if fields.get("text_1") is None and fields.get("text_2") is None:
        name, conversations, _ = _conversations(fields)
        found = await until_disconnect(request, _score(services, fields, name, conversations))
        return GoJSONResponse(_list(name, found.values, found.tokens))
    name = fields.required("model")
    first, second = _texts(fields, "text_1"), _texts(fields, "text_2")
    if len(first) not in (1, len(second)):
        raise BadRequest(f"text_1 has {len(first)} texts and text_2 {len(second)}; one, or as many, were expected")
    texts = [*first, *second]
    asked = EmbedRequest(await services.model(name), texts, options=fields.object("options") or {})
    vectors = await until_disconnect(request, embed(services.scheduler, asked))
    left, right = vectors.vectors[: len(first)], vectors.vectors[len(first) :]
    return GoJSONResponse(_list(name, [float(value) for value in (left * right).sum(axis=1)], vectors.tokens))


async def rerank(request: Request) -> Response:
    """The documents that answer the query best, first."""
    services = services_of(request)
    fields = await read_fields(request, "RerankRequest")
    name, query, documents = fields.required("model"), fields.text("query"), _documents(fields)
    if not query or not documents:
        raise BadRequest("rerank needs a query and documents")
    top = fields.integer("top_n")
    if top is not None and top < 1:
        raise BadRequest(f"top_n must be at least 1; it is {top}")
    model = await services.model(name)
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    work = relevance(services.scheduler, model, query, documents, fields.object("options"), keep_alive)
    values, tokens = await until_disconnect(request, work)
    order = sorted(range(len(values)), key=lambda index: -values[index])[:top]
    shown = fields.flag("return_documents") is not False
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": values[index]} for index in order]
    if shown:
        results = [result | {"document": {"text": documents[result["index"]]}} for result in results]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return GoJSONResponse({"model": name, "results": results, "usage": usage})


async def _score(services: Services, fields: Fields, name: str, conversations: Sequence[Sequence[Message]]) -> Scores:
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    model = await services.model(name)
    return await score(
        services.scheduler, ScoreRequest(model, conversations, fields.object("options") or {}, keep_alive)
    )


def _conversations(fields: Fields) -> tuple[str, list[list[Message]], bool]:
    """The model's name, the conversations, and whether it was one."""
    name, given = fields.required("model"), fields.array("conversations")
    if given is None:
        return name, [_messages(fields.values)], True
    return name, [_messages({"messages": item} if isinstance(item, list) else item) for item in given], False


def _messages(holder: Any) -> list[Message]:
    if not isinstance(holder, dict):
        raise BadRequest("a conversation must be a list of messages")
    messages = openai_messages.read_messages(Fields(holder, "ScoreRequest"))
    if not messages:
        raise BadRequest("a conversation to be scored has no messages")
    return messages


def _texts(fields: Fields, name: str) -> list[str]:
    value = fields.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequest(f"{name} must be a text or a list of texts")
    return texts


def _documents(fields: Fields) -> list[str]:
    """Texts, or objects with a text."""
    documents = []
    for document in fields.array("documents") or []:
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise BadRequest("documents must be texts, or objects with a text")
        documents.append(text)
    return documents


def _list(name: str, values: list[float], tokens: int) -> dict[str, Any]:
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(values)]
    return {"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
