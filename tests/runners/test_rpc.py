"""What needs no llama.cpp of RPC: addresses, who may come, where layers go, workers that lie."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from interns1_local.errors import BadRequest, InternS1Error, LoadError
from interns1_local.runners.rpc_gate import GateOptions, RpcGate, allowed, networks
from interns1_local.runners.rpc_placement import place_layers
from interns1_local.runners.rpc_protocol import VERSION, gone, look_at, parse_endpoints, watch_connections

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu1", ("gpu1:50052",)),
        ("10.0.0.1:50052, gpu2:7", ("10.0.0.1:50052", "gpu2:7")),
        ("", ()),
        ("gpu1:x", None),
        ("gpu1:0", None),
        ("http://gpu1:5", None),
        ("::1:50052", None),
        ("gpu1,gpu1:50052", None),
        (",".join(f"g{n}" for n in range(17)), None),
    ],
)
def test_endpoints(text: str, found: tuple[str, ...] | None) -> None:
    if found is not None:
        assert parse_endpoints(text) == found
        return
    with pytest.raises(BadRequest):
        parse_endpoints(text)


@pytest.mark.parametrize(
    ("peer", "allow", "inside"),
    [
        ("10.0.0.5", ["10.0.0.5"], True),
        ("10.0.0.6", ["10.0.0.5"], False),
        ("10.0.3.6", ["10.0.0.0/16", "192.168.0.0/24"], True),
        ("::ffff:10.0.0.5", ["10.0.0.0/24"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("2001:db8::1", ["10.0.0.0/8"], False),
    ],
)
def test_allow_list(peer: str, allow: list[str], inside: bool) -> None:
    assert allowed(peer, networks(allow)) is inside


def test_other_machines_need_an_allow_list() -> None:
    with pytest.raises(BadRequest, match="--allow"):
        RpcGate(GateOptions("0.0.0.0"))
    with pytest.raises(BadRequest, match="--allow here"):
        RpcGate(GateOptions(allow=("here",)))


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InternS1Error, match="cannot listen"):
        RpcGate(GateOptions(port=taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("free", "model", "blocks", "layers", "split"),
    [
        ([10 * GIB, 10 * GIB], GIB, 10, -1, (0.5, 0.5)),
        ([30 * GIB, 10 * GIB], GIB, 10, -1, (0.75, 0.25)),
        # No word about memory: as much as the smallest of the others.
        ([8 * GIB, 0], GIB, 10, -1, (0.5, 0.5)),
        ([0], GIB, 10, -1, (1.0,)),
        # 18 GiB may be used of 46 GiB that are needed: 18 / 46 of 95 layers.
        ([20 * GIB], 40 * GIB, 94, 37, (1.0,)),
    ],
)
def test_placement(free: list[int], model: int, blocks: int, layers: int, split: tuple[float, ...]) -> None:
    placement = place_layers(free, model, blocks)
    assert placement.n_layers == layers and placement.split == pytest.approx(split)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that takes connections and does `answer` with each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        threading.Thread(target=run, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def says(*answers: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for data in answers:
            connection.recv(4096)
            connection.sendall(struct.pack("<Q", len(data)) + data)

    return answer


def hello(major: int, minor: int) -> bytes:
    return bytes([major, minor, 0, 0]) + bytes(24)


def test_a_worker_that_answers() -> None:
    memory = [struct.pack("<QQ", 5, 9), struct.pack("<QQ", 1, 2)]
    with answering(says(hello(*VERSION), struct.pack("<I", 2), *memory)) as endpoint:
        worker = look_at(endpoint)
    assert worker.memory == ((5, 9), (1, 2)) and worker.free == 6


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (says(hello(VERSION[0] + 1, 0)), "speaks version"),
        (says(hello(VERSION[0], VERSION[1] + 1)), "speaks version"),
        (says(b"SSH-2.0-OpenSSH"), "does not answer as an RPC worker"),
        (says(hello(*VERSION), struct.pack("<I", 0)), "has no devices"),
        (lambda connection: None, "does not answer as an RPC worker"),
        (lambda connection: connection.recv(4096) and connection.recv(1), "may serve another client"),
    ],
)
def test_workers_that_lie(answer: Callable[[socket.socket], None], message: str) -> None:
    with answering(answer) as endpoint, pytest.raises(LoadError, match=message) as refused:
        look_at(endpoint, seconds=0.3)
    assert endpoint in refused.value.message


def test_connections_break_when_the_other_machine_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one, socket.create_connection(("127.0.0.1", port)) as two:
            assert watch_connections(["127.0.0.1:9", f"localhost:{port}"]) == 2
            for connection in (one, two):
                assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert one.fileno() > 0
    assert watch_connections(()) == 0


def test_who_is_gone() -> None:
    assert gone(()) == ""
    with answering(lambda connection: None) as endpoint:
        assert "127.0.0.1:9 went away" in gone([endpoint, "127.0.0.1:9"])
        assert "broke" in gone([endpoint])
