"""A model whose engine is another server: where it is and what the model is called there. Keys are never stored."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from interns1_local.addresses import is_public
from interns1_local.errors import BadRequest, InternS1Error, UpstreamError

ASK_SECONDS = 20.0
MAX_LAYER = 1 << 16
_EXAMPLE = "https://host/v1#internlm/Intern-S1"
_FAMILIES = (
    (re.compile(r"intern-?s1", re.IGNORECASE), "interns1"),
    (re.compile(r"internlm-?3", re.IGNORECASE), "internlm3"),
    (re.compile(r"internlm", re.IGNORECASE), "internlm2"),
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """`url` is the base of an OpenAI-compatible API, with no slash at its end; `model` its name of the model.

    `named_here`: somebody who may change this store wrote that URL, it did not come with a model of others.
    """

    url: str
    model: str
    named_here: bool = False

    @property
    def source(self) -> str:
        """As FROM names it."""
        return f"{self.url}#{self.model}"

    @property
    def host(self) -> str:
        """`host` or `host:port`."""
        return urlsplit(self.url).netloc

    @property
    def family(self) -> str:
        """The model's family, by its name."""
        found = next((family for pattern, family in _FAMILIES if pattern.search(self.model)), None)
        return found or re.split(r"[-_:.]", self.model.rpartition("/")[2].lower())[0]

    def to_bytes(self) -> bytes:
        return json.dumps({"url": self.url, "model": self.model}).encode()


def is_upstream(source: str) -> bool:
    """Whether FROM names a server's API and not a registry's model: an http(s) URL ending in /v1 or with a #model."""
    scheme, colon, rest = source.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        return False
    return "#" in rest or rest.rstrip("/").endswith("/v1")


def parse_upstream(source: str) -> Upstream:
    """`https://host/v1#model`; the model may be empty. BadRequest says what is wrong."""
    url, _, model = source.strip().partition("#")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadRequest(f"{url} is not a URL: {error}; expected {_EXAMPLE}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest(f"{source} does not name a server; expected {_EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("a key does not belong into a model; leave it out of the URL and set INTERNS1_UPSTREAM_KEY")
    if parts.query:
        raise BadRequest(f"the URL of an upstream has no query; expected {_EXAMPLE}")
    if len(source) > MAX_LAYER // 2 or any(not char.isprintable() for char in source):
        raise BadRequest(f"the URL of an upstream is too long or holds control characters; expected {_EXAMPLE}")
    return Upstream(f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), model)


def upstream_from(data: bytes, named_urls: Iterable[str]) -> Upstream:
    """The upstream of a stored layer. Raises InternS1Error for a layer that is none."""
    try:
        fields: Any = json.loads(data)
        upstream = parse_upstream(f"{fields['url']}#{fields['model']}")
    except (ValueError, KeyError, TypeError, BadRequest) as error:
        raise InternS1Error(f"the model's upstream layer cannot be read ({error}); create the model again") from None
    return Upstream(upstream.url, upstream.model, upstream.url in named_urls)


def require_safe_scheme(url: str) -> None:
    """BadRequest for http to an address of the internet: prompts and keys would travel in the open."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return
    host = parts.hostname or ""
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, parts.port or 80, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise UpstreamError(f"{host} of {url} has no address: {error.strerror or error}") from None
    public = [address for address in addresses if is_public(address)]
    if public:
        raise BadRequest(
            f"{url} would send prompts in the open to {public[0]}: http is for this machine and private networks; "
            "use https"
        )


def is_allowed(url: str, allowed: Iterable[str]) -> bool:
    """Whether one of `allowed` (INTERNS1_UPSTREAMS: base URLs, hosts, or *) covers `url`."""
    host = urlsplit(url).netloc
    for entry in (text.rstrip("/") for text in allowed):
        if entry == "*" or (entry and (url == entry or url.startswith(f"{entry}/") or host == entry)):
            return True
    return False


def with_model(upstream: Upstream, key: str = "") -> Upstream:
    """`upstream` with the name of its model: the one that it serves, if none was given and it serves one."""
    if upstream.model:
        return upstream
    import httpx  # it brings half a command line

    address = f"{upstream.url}/models"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(address, headers=headers, timeout=ASK_SECONDS, trust_env=address.startswith("https:"))
        response.raise_for_status()
        models = [str(entry["id"]) for entry in response.json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UpstreamError(
            f"{address} does not say which models there are ({error or type(error).__name__}); "
            f"name one: FROM {upstream.url}#MODEL"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UpstreamError(f"{address} does not answer as OpenAI's API does; is {upstream.url} its base?") from None
    if len(models) != 1:
        raise BadRequest(
            f"{upstream.url} serves {', '.join(models[:20]) or 'no model'}; choose: FROM {upstream.url}#MODEL"
        )
    return Upstream(upstream.url, models[0], upstream.named_here)
