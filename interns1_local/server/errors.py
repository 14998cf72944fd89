"""Errors as each protocol writes them: one table from an `InternS1Error` to a status and a body."""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from interns1_local.errors import ContextOverflow, InternS1Error

_log = logging.getLogger("interns1_local.server")
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_OPENAI_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}


class GoJSONResponse(JSONResponse):
    """JSON with the content type that Ollama's clients see, and ASCII only."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def to_json(content: Any) -> bytes:
    """Compact ASCII JSON: some clients take U+2028, U+2029 or U+0085 for the end of a line."""
    import json

    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def ollama_error(error: InternS1Error) -> dict[str, Any]:
    return {"error": error.message}


def openai_error(error: InternS1Error) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(error.status, "api_error")
    # The code that clients of OpenAI look for to shorten their prompt.
    code = "context_length_exceeded" if isinstance(error, ContextOverflow) else None
    return {"error": {"message": error.message, "type": kind, "param": None, "code": code}}


def anthropic_error(error: InternS1Error) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": _request_id()}


def error_body(path: str, error: InternS1Error) -> dict[str, Any]:
    """The body of `error` in the protocol that `path` belongs to."""
    if path.startswith("/v1/messages"):
        return anthropic_error(error)
    return openai_error(error) if path.startswith("/v1/") else ollama_error(error)


def _request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


def as_ours(error: Exception) -> InternS1Error:
    """`error` itself when it is ours; anything else is a fault of the server, logged and named."""
    if isinstance(error, InternS1Error):
        return error
    _log.error("unexpected error", exc_info=error)
    return InternS1Error(f"internal error: {type(error).__name__}: {error}")


async def handle_ours(request: Request, error: Exception) -> Response:
    ours = as_ours(error)
    return GoJSONResponse(error_body(request.url.path, ours), status_code=ours.status)


async def handle_http(request: Request, error: Exception) -> Response:
    """404 and 405 as plain text that begins as Go's router writes it."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path.encode("unicode_escape").decode("ascii"), request.method
    texts = {
        404: f"404 page not found: there is no {path}; GET /openapi.json lists what there is",
        405: f"405 method not allowed: {path} takes no {method}; GET /openapi.json lists what it takes",
    }
    text = texts.get(error.status_code, HTTPStatus(error.status_code).phrase)
    return PlainTextResponse(text, status_code=error.status_code, headers=error.headers)


EXCEPTION_HANDLERS: dict[Any, Any] = {InternS1Error: handle_ours, HTTPException: handle_http, Exception: handle_ours}
