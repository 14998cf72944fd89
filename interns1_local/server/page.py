"""GET / for a browser: the chat page and its files, from the package alone, under a strict policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

WEB = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
# What a model wrote can run nothing and reach nobody: not even a picture comes from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob: data:; "
    "connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify own-scripts"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class WebFile:
    """A file of the page as it is sent."""

    data: bytes
    media_type: str
    etag: str


async def root(request: Request) -> Response:
    """The page for who asks for HTML; other clients look for this text before they talk."""
    if "text/html" in request.headers.get("accept", ""):
        return _send(request, "index.html", vary=True)
    return PlainTextResponse("Ollama is running", headers={"vary": "Accept"})


async def web_file(request: Request) -> Response:
    return _send(request, request.path_params["path"])


@cache
def web_files() -> dict[str, WebFile]:
    """Every file of the page by its path below /web/; nothing else can be asked for."""
    found = {}
    for path in sorted(WEB.rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            data = path.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[path.relative_to(WEB).as_posix()] = WebFile(data, _TYPES[path.suffix], etag)
    return found


def _send(request: Request, name: str, vary: bool = False) -> Response:
    file = web_files().get(name)
    if file is None:
        raise HTTPException(404)
    headers = HEADERS | {"etag": file.etag} | ({"vary": "Accept"} if vary else {})
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    # The media type carries its charset: starlette would add one to every text.
    return Response(file.data, headers=headers | {"content-type": file.media_type})
