"""Pictures from the web, with the server's own network kept out of reach of those who name the addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpcore

from interns1_local.addresses import is_public
from interns1_local.errors import MediaError

MAX_BYTES = 50 * 2**20
MAX_REDIRECTS = 3
SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FetchRules:
    """Whose pictures may be fetched: public addresses if `public`, and `hosts` wherever they are."""

    public: bool = False
    hosts: frozenset[str] = frozenset()

    @property
    def off(self) -> bool:
        return not self.public and not self.hosts


async def fetch_image(url: str, rules: FetchRules) -> bytes:
    """The bytes behind an http(s) URL. Raises MediaError when the rules, the size or the time do not allow it."""
    try:
        # A pool of our own, with no proxy: a proxy would connect for us, past the check of the address.
        async with (
            asyncio.timeout(SECONDS),
            httpcore.AsyncConnectionPool(network_backend=_CheckedNetwork(rules)) as pool,
        ):
            return await _follow(pool, url)
    except TimeoutError:
        raise MediaError(f"the image at {url} did not arrive within {SECONDS:.0f} seconds") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError, ValueError) as error:
        raise MediaError(f"the image at {url} cannot be fetched: {error or type(error).__name__}") from error


async def _follow(pool: httpcore.AsyncConnectionPool, url: str) -> bytes:
    """Redirects are followed one by one; each new address passes the same check."""
    current = url
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(current)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MediaError(f"{current} is not an http or https URL")
        if parts.username is not None or parts.password is not None:
            raise MediaError("an image URL may not carry a name and a password")
        # Identity: a compressed answer could grow without end.
        headers = [("host", parts.netloc), ("accept", "image/*"), ("accept-encoding", "identity")]
        async with pool.stream("GET", urlunsplit(parts._replace(fragment="")), headers=headers) as response:
            location = dict(response.headers).get(b"location", b"").decode("latin-1")
            if response.status in (301, 302, 303, 307, 308) and location:
                current = urljoin(current, location)
                continue
            if response.status != 200:
                raise MediaError(f"the image at {url} cannot be fetched: status {response.status}")
            return await _bounded(response, url)
    raise MediaError(f"the image at {url} cannot be fetched: more than {MAX_REDIRECTS} redirects")


async def _bounded(response: httpcore.Response, url: str) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise MediaError(f"the image at {url} is larger than the limit of {MAX_BYTES >> 20} MB")
    return bytes(data)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to the very address that was checked: a name that resolves anew could lead elsewhere."""

    def __init__(self, rules: FetchRules) -> None:
        self._rules = rules
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        address = await self._checked_address(host, port)
        return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise MediaError("an image URL cannot name a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _checked_address(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise MediaError(f"the image's host {host} cannot be found: {error.strerror or error}") from error
        addresses = [str(entry[4][0]) for entry in found]
        if host.lower() not in self._rules.hosts:
            if not self._rules.public:
                raise MediaError(f"images may not be fetched from {host}; allowed: {', '.join(self._rules.hosts)}")
            # All of them, since a mixed answer is how a private address is smuggled in.
            if not all(is_public(address) for address in addresses):
                raise MediaError(f"images may not be fetched from {host}: it is an address of a private network")
        return addresses[0]
