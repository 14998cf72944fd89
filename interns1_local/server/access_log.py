"""One line for each request, with an id that the client may choose and always gets back."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interns1_local.config import Settings
from interns1_local.server.metrics import Metrics, route_path

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Asked every few seconds by clients and monitors that only want to know whether the server lives.
_QUIET_PATHS = ("/", "/healthz", "/metrics", "/api/version")

log = logging.getLogger("interns1_local.access")


class AccessLog:
    """ASGI middleware, the outermost: what others refuse is logged and counted too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        started = time.monotonic()
        status, sent = 0, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = time.monotonic() - started
            # 499 as other servers say it: the client left before there was an answer.
            self._metrics.observe_request(scope["method"], route_path(scope), status or 499, seconds)
            level = logging.DEBUG if scope["path"] in _QUIET_PATHS and status < 400 else logging.INFO
            log.log(level, "request", extra={"request": _fields(scope, request_id, status or 499, seconds, sent)})


def start_logging(settings: Settings) -> None:
    """Send our log and uvicorn's to standard error, as text or as one JSON object a line (INTERNS1_LOG)."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if settings.log_format == "json" else TextFormatter())
    for name in ("interns1_local", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if settings.debug else logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.INFO if settings.debug else logging.WARNING)
    log.setLevel(logging.CRITICAL if settings.log_format == "off" else logging.NOTSET)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = f"{_time(record)} {record.levelname:<7}"
        request = getattr(record, "request", None)
        if request is not None:
            seconds = f"{request['seconds']:.3f}s"
            line = f"{head} {request['status']} {seconds:>9} {request['client']:<15} {request['method']:<6}"
            return f"{line} {request['path']} id={request['id']}"
        text = f"{head} {record.name}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        fields |= getattr(record, "request", None) or {"message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def _fields(scope: Scope, request_id: str, status: int, seconds: float, sent: int) -> dict[str, object]:
    client = scope.get("client") or ("-", 0)
    # The raw path of a request may hold line ends, escaped; printed as it is it could forge lines.
    path = scope["path"].encode("unicode_escape").decode("ascii")
    return {
        "id": request_id,
        "client": client[0],
        "method": scope["method"],
        "path": path,
        "status": status,
        "seconds": round(seconds, 4),
        "bytes": sent,
    }


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
