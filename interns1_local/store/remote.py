"""HTTP to registries and hubs: one client for each pull or push, with redirects that stay out of private networks."""

from __future__ import annotations

import socket

import httpx

from interns1_local import __version__
from interns1_local.addresses import is_public
from interns1_local.errors import InternS1Error

CONNECT_SECONDS = 15.0
# Ollama's own measure of a connection that has stalled.
STALL_SECONDS = 30.0


class RemoteError(InternS1Error):
    """The other side refused, failed or sent what it should not."""

    status = 500
    code = "remote_error"


def open_client(
    *, insecure: bool = False, auth: httpx.Auth | None = None, stall: float = STALL_SECONDS
) -> httpx.Client:
    """`insecure` accepts certificates that nobody vouches for. Proxies of the environment are used."""
    return httpx.Client(
        headers={"user-agent": f"interns1_local/{__version__}"},
        timeout=httpx.Timeout(stall, connect=CONNECT_SECONDS),
        follow_redirects=True,
        max_redirects=5,
        verify=not insecure,
        auth=auth,
        event_hooks={"response": [_check_redirect]},
    )


def read_bounded(response: httpx.Response, limit: int, too_large: str) -> bytes:
    """The body of a streamed answer. RemoteError, with the words `too_large`, beyond `limit` bytes."""
    data = bytearray()
    for chunk in response.iter_bytes():
        data += chunk
        if len(data) > limit:
            raise RemoteError(too_large)
    return bytes(data)


def is_private(host: str) -> bool:
    """Whether a host name leads into this machine or its own network. A name that cannot be found does not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return not all(is_public(str(entry[4][0])) for entry in found)


def _check_redirect(response: httpx.Response) -> None:
    """A public registry may not send us to a service of the private network."""
    target = response.next_request
    if not response.is_redirect or target is None:
        return
    here, there = response.request.url, target.url
    if here.scheme == "https" and there.scheme != "https":
        raise RemoteError(f"{here.host} redirects to {there.scheme}://{there.host}, which is not encrypted")
    if here.host != there.host and is_private(there.host) and not is_private(here.host):
        raise RemoteError(f"{here.host} redirects to {there.host}, which is an address of a private network")
