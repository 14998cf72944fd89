"""Looks at RPC workers before llama.cpp does, which ends its process when one is not there or speaks otherwise."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from interns1_local.errors import BadRequest, LoadError

DEFAULT_PORT = 50052
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Of llama.cpp's RPC protocol, as the pinned llama-cpp-python has it: the same major version, no newer minor one.
VERSION = (7, 0)
MAX_WORKERS = 16

_HELLO, _DEVICE_COUNT, _DEVICE_MEMORY = 14, 15, 11
# ggml's RPC_CONN_CAPS_SIZE: what a connection could do beside TCP.
_CAPS = 24
_MAX_DEVICES = 64
_MAX_FILES = 1024


@dataclass(frozen=True, slots=True)
class RpcWorker:
    """A worker that answered. `memory`: free and total bytes of each of its devices."""

    endpoint: str
    version: tuple[int, int, int]
    memory: tuple[tuple[int, int], ...]

    @property
    def free(self) -> int:
        return sum(free for free, _ in self.memory)


def parse_endpoints(text: str) -> tuple[str, ...]:
    """`host[:port],host[:port]` as `host:port` each. BadRequest for what is none."""
    found = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        host, colon, port = part.rpartition(":")
        if not colon:
            host, port = part, str(DEFAULT_PORT)
        # llama.cpp takes what comes before the first colon for the host.
        if not host or ":" in host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
            raise BadRequest(f"{part!r} is not the address of an RPC worker; expected host:port, such as gpu1:50052")
        found.append(f"{host}:{int(port)}")
    if len(found) > MAX_WORKERS:
        raise BadRequest(f"{len(found)} RPC workers were given; llama.cpp takes {MAX_WORKERS} at most")
    if len(set(found)) < len(found):
        raise BadRequest(f"an RPC worker is named twice in {text!r}")
    return tuple(found)


def look_at(endpoint: str, connect_seconds: float = CONNECT_SECONDS, seconds: float = ANSWER_SECONDS) -> RpcWorker:
    """Ask a worker for its version and its memory. LoadError names it and says what is wrong."""
    host, _, port = endpoint.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), connect_seconds)
    except OSError as error:
        raise LoadError(
            f"the RPC worker {endpoint} cannot be reached ({_reason(error)}); start it there with "
            f"`interns1 rpc-worker --listen {endpoint}`, or leave it out of --rpc (INTERNS1_RPC)"
        ) from None
    with connection:
        connection.settimeout(seconds)
        try:
            hello = _ask(connection, _HELLO, bytes(_CAPS), 4 + _CAPS)
            version = (hello[0], hello[1], hello[2])
            if version[0] != VERSION[0] or version[1] > VERSION[1]:
                theirs, ours = ".".join(map(str, version)), ".".join(map(str, VERSION))
                raise LoadError(
                    f"the RPC worker {endpoint} speaks version {theirs} of the protocol, this llama.cpp {ours}: "
                    "install the same llama-cpp-python on both machines"
                )
            (count,) = struct.unpack("<I", _ask(connection, _DEVICE_COUNT, b"", 4))
            numbers = range(min(count, _MAX_DEVICES))
            memory = [struct.unpack("<QQ", _ask(connection, _DEVICE_MEMORY, struct.pack("<I", n), 16)) for n in numbers]
        except TimeoutError:
            raise LoadError(
                f"the RPC worker {endpoint} takes connections but does not answer: it may serve another client "
                "(llama.cpp's own rpc-server serves one at a time)"
            ) from None
        except (OSError, ValueError, struct.error) as error:
            raise LoadError(
                f"{endpoint} does not answer as an RPC worker ({_reason(error)}): it refuses this machine (--allow), "
                "is something else, or has another version of llama.cpp"
            ) from None
    if not memory:
        raise LoadError(f"the RPC worker {endpoint} has no devices")
    return RpcWorker(endpoint, version, tuple((int(free), int(total)) for free, total in memory))


def is_there(endpoint: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether anything takes connections at `endpoint`."""
    host, _, port = endpoint.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), seconds):
        return True
    return False


def watch_connections(endpoints: Sequence[str]) -> int:
    """Let this process's connections to the workers break when their machine vanishes without a word; how many.

    llama.cpp would wait for its answer for ever. Its sockets are found by where they lead.
    """
    peers = set()
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        with suppress(OSError):
            peers |= {found[4][:2] for found in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)}
    watched = 0
    for number in range(3, _MAX_FILES) if peers else ():
        with suppress(OSError, IndexError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as copy:
                    if copy.getpeername()[:2] in peers:
                        _break_when_silent(copy)
                        watched += 1
    return watched


def _break_when_silent(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Silent for so long, then asked so often: about half a minute. What a system has not, it leaves out.
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPALIVE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3),
                        ("TCP_USER_TIMEOUT", 30_000)):  # fmt: skip
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def gone(endpoints: Sequence[str]) -> str:
    """Which of the workers went away, for a process that ended: a sentence, or nothing without workers."""
    if not endpoints:
        return ""
    missing = [endpoint for endpoint in endpoints if not is_there(endpoint, 2.0)]
    if missing:
        return f"the RPC worker {' and '.join(missing)} went away"
    return f"the connection to an RPC worker broke, or its process ended (of {', '.join(endpoints)})"


def _ask(connection: socket.socket, command: int, data: bytes, answer: int) -> bytes:
    connection.sendall(struct.pack("<BQ", command, len(data)) + data)
    (length,) = struct.unpack("<Q", _read(connection, 8))
    if length != answer:
        raise ValueError(f"an answer of {length} bytes instead of {answer}")
    return _read(connection, answer)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ValueError("it closed the connection")
        data += part
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return str(error)
