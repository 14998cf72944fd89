"""Who may talk to the server: CORS, the Host check against DNS rebinding, the API key, the limit on bodies."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interns1_local.addresses import is_this_machine
from interns1_local.config import Settings
from interns1_local.errors import BadRequest, InternS1Error
from interns1_local.server.errors import GoJSONResponse, error_body

MAX_BODY = 256 * 2**20
BLOBS_PATH = "/api/blobs/"
# What tells that a server is there, and nothing else.
OPEN_PATHS = ("/", "/healthz")
# The page itself, which asks for the key.
OPEN_FOLDER = "/web/"

_METHODS = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"
_HEADERS = (
    "Authorization, Content-Type, User-Agent, Accept, X-Requested-With, OpenAI-Beta, x-api-key, anthropic-version, "
    "anthropic-beta, x-stainless-arch, x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, "
    "x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-poll-helper, "
    "x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout"
)
_WRONG_HOST = (
    "this server is for this machine only: ask it as 127.0.0.1 or localhost, or start it with INTERNS1_HOST=0.0.0.0"
)
_WRONG_ORIGIN = "web pages of this origin may not use this server; it allows those that INTERNS1_ORIGINS names"
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class Unauthorized(InternS1Error):
    status = 401
    code = "unauthorized"


class BodyTooLarge(BadRequest):
    status = 413
    code = "body_too_large"


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._origins = settings.origins
        self._key = settings.api_key.encode()
        self._check_host = is_this_machine(settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if self._check_host and not host_allowed(host):
            await PlainTextResponse(_WRONG_HOST, status_code=403)(scope, receive, send)
            return
        if not origin or origin in (f"http://{host}", f"https://{host}"):
            if scope["method"] == "OPTIONS":
                await Response(status_code=204)(scope, receive, send)
                return
            await self._limited(scope, receive, send)
            return
        if not origin_allowed(origin, self._origins):
            await PlainTextResponse(_WRONG_ORIGIN, status_code=403)(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_preflight(origin))(scope, receive, send)
            return
        await self._limited(scope, receive, _with_origin(send, origin))

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._key and not _is_open(scope["path"]) and not self._has_key(Headers(scope=scope)):
            missing = Unauthorized(
                "this server asks for its API key: send it as `Authorization: Bearer KEY` (or `x-api-key: KEY`); "
                "the `interns1` command reads it from INTERNS1_API_KEY"
            )
            headers = {"www-authenticate": "Bearer"}
            response = GoJSONResponse(error_body(scope["path"], missing), status_code=missing.status, headers=headers)
            await response(scope, receive, send)
            return
        await self._bounded(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self._key)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a body beyond the limit; blobs have none, as they go to the disk piece by piece."""
        if scope["path"].startswith(BLOBS_PATH):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            error = _too_large()
            await GoJSONResponse(error_body(scope["path"], error), status_code=error.status)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise _too_large()
            return message

        await self._app(scope, counted, send)


def host_allowed(host: str) -> bool:
    """Whether a Host header may reach a server on loopback: an address of this machine, or a local name."""
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    if not name or name == "localhost" or name.endswith(_LOCAL_SUFFIXES) or name == socket.gethostname().lower():
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_unspecified


def origin_allowed(origin: str, allowed: tuple[str, ...]) -> bool:
    """Patterns hold `*` for anything: `http://localhost:*`, `app://*`, or `*` alone."""
    patterns = (".*".join(re.escape(part) for part in pattern.lower().split("*")) for pattern in allowed)
    return any(re.fullmatch(pattern, origin.lower()) for pattern in patterns)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)


def _too_large() -> InternS1Error:
    return BodyTooLarge(f"http: request body too large (the limit is {MAX_BODY} bytes)")


def _preflight(origin: str) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _HEADERS,
        "access-control-max-age": "43200",
        "vary": "Origin",
    }


def _with_origin(send: Send, origin: str) -> Send:
    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers.add_vary_header("Origin")
        await send(message)

    return send_with_origin
