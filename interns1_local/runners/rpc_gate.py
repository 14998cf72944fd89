"""The door of an RPC worker: checks who comes, and gives each client a process of its own that runs llama.cpp's server.

llama.cpp's RPC protocol knows no passwords: who may speak it may read and write the memory of the process that serves
it. So that process listens on loopback only, and this one decides by address who is led to it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from interns1_local import child_python
from interns1_local.addresses import is_this_machine
from interns1_local.errors import BadRequest, InternS1Error

START_SECONDS = 60.0
# A client that connects and says nothing is not kept for ever.
FIRST_WORD_SECONDS = 60.0
BUFFER_BYTES = 1 << 20
MAX_CLIENTS = 32
# Processes of clients that left, kept for the next ones.
SPARES = 2
# A client that stays so long is told of.
STAY_SECONDS = 1.0
LOOPBACK = ("127.0.0.0/8", "::1/128")
_BUILT_WITHOUT = 3

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GateOptions:
    """`allow`: networks whose clients are let in. `devices` by name; none: GPUs, else the CPU. `cache`: a folder."""

    host: str = "127.0.0.1"
    port: int = 0
    allow: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    threads: int = 1
    cache: str = ""


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """CIDR texts or single addresses as networks. BadRequest names the one that is none."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError as error:
            raise BadRequest(f"--allow {text}: {error}; expected an address or a network such as 10.0.0.0/24") from None
    return tuple(found)


def allowed(address: str, among: Sequence[Network]) -> bool:
    """Whether a peer's address is in one of the networks; IPv4 in IPv6 counts as IPv4."""
    peer = ipaddress.ip_address(address.partition("%")[0])
    peer = getattr(peer, "ipv4_mapped", None) or peer
    return any(peer in network for network in among)


class RpcGate:
    """Listens from the start; `run` serves until `close`. The process of a client that left waits for the next one."""

    def __init__(self, options: GateOptions, say: Say = print) -> None:
        allow = options.allow or (LOOPBACK if is_this_machine(options.host) else ())
        if not allow:
            raise BadRequest(
                f"--listen {options.host} is open to other machines and RPC has no password: say who may come, "
                "such as --allow 10.0.0.5 or --allow 10.0.0.0/24"
            )
        self._allow = networks(allow)
        self._options = options
        self._say = say
        self._lock = threading.Lock()
        self._spares: list[_Process] = []
        self._running: set[_Process] = set()
        self._closed = False
        try:
            self._listener = socket.create_server((options.host, options.port), reuse_port=False)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InternS1Error(f"cannot listen on {options.host}:{options.port}: {reason}") from None

    @property
    def address(self) -> str:
        """host:port, as it really is."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def run(self) -> None:
        """Accept clients until `close`. InternS1Error when llama.cpp cannot serve at all."""
        with self._lock:
            self._spares.append(self._start())
        while not self._closed:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            address = str(peer[0])
            if not allowed(address, self._allow):
                self._say(f"refused {address}: not in the allow-list")
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()

    def close(self) -> None:
        """End the listener and all worker processes."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            processes = [*self._running, *self._spares]
            self._spares = []
        for process in processes:
            process.end()

    def _serve(self, connection: socket.socket, address: str) -> None:
        process, said = None, threading.Event()
        with connection:
            try:
                # Who only looks whether somebody is here takes no process.
                connection.settimeout(FIRST_WORD_SECONDS)
                if not connection.recv(1, socket.MSG_PEEK):
                    return
                connection.settimeout(None)
                process, inner = self._take()
                # llama.cpp's client comes and goes a few times before it stays.
                timer = threading.Timer(STAY_SECONDS, self._say_connected, (address, process, said))
                timer.daemon = True
                timer.start()
                with inner:
                    _join(connection, inner)
                timer.cancel()
            except (OSError, InternS1Error) as error:
                self._say(f"{address}: {error}")
        if process is not None:
            self._release(process, address, said.is_set())

    def _say_connected(self, address: str, process: _Process, said: threading.Event) -> None:
        said.set()
        self._say(f"{address} connected (process {process.pid})")

    def _take(self) -> tuple[_Process, socket.socket]:
        """A process that nobody uses, and a connection to it."""
        with self._lock:
            while True:
                if len(self._running) >= MAX_CLIENTS or self._closed:
                    raise InternS1Error(f"refused: {MAX_CLIENTS} clients are here already")
                process = self._spares.pop() if self._spares else self._start()
                try:
                    inner = socket.create_connection(("127.0.0.1", process.port), 10)
                except OSError:
                    self._say(f"the waiting process {process.pid} had ended ({process.ending}); another one is started")
                    process.end()
                    continue
                inner.settimeout(None)
                self._running.add(process)
                return process, inner

    def _release(self, process: _Process, address: str, was_said: bool) -> None:
        with self._lock:
            self._running.discard(process)
            keep = len(self._spares) < SPARES and not self._closed
            if keep:
                self._spares.append(process)
        # A process that crashes closes its connection a moment before it is gone.
        if process.ended_within(0.5) and not self._closed:
            self._say(f"the process {process.pid} for {address} ended ({process.ending}); another one is started")
            self._replace(process)
            return
        if was_said:
            self._say(f"{address} left")
        if not keep:
            process.end()

    def _replace(self, process: _Process) -> None:
        with self._lock:
            if process in self._spares:
                self._spares.remove(process)
            if not self._spares and not self._closed:
                try:
                    self._spares.append(self._start())
                except InternS1Error as error:
                    self._say(error.message)

    def _start(self) -> _Process:
        process = _Process(self._options)
        try:
            process.wait_until_ready()
        except BaseException:
            process.end()
            raise
        return process


class _Process:
    """One process that serves llama.cpp's RPC on a loopback port; it ends when its standard input closes."""

    def __init__(self, options: GateOptions) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        arguments = [f"127.0.0.1:{self.port}", str(options.threads), options.cache, *options.devices]
        self._process = subprocess.Popen(
            child_python.command("interns1_local.engine.rpc", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=child_python.environment(GGML_NO_BACKTRACE="1"),
            # Ctrl-C in a terminal is for the gate, which then ends its processes.
            start_new_session=True,
        )
        self._words = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def ending(self) -> str:
        said = self._words.decode(errors="replace").strip().splitlines()
        how = child_python.ending(self._process.poll())
        return f"{how}: {said[-1]}" if said else how

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.alive:
                self._reader.join(1.0)
                said = self._words.decode(errors="replace").strip()
                raise InternS1Error(said if self._process.returncode == _BUILT_WITHOUT else f"RPC failed: {said}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.05)
        raise InternS1Error(f"llama.cpp's RPC server did not start within {START_SECONDS:.0f} s")

    def ended_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.alive

    def end(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        if not self.ended_within(2.0):
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with suppress(OSError, ValueError):
            while piece := os.read(self._process.stderr.fileno(), 4096):
                self._words = (self._words + piece)[-4096:]


def _join(outer: socket.socket, inner: socket.socket) -> None:
    """Pass bytes both ways until one side closes."""
    for side in (outer, inner):
        with suppress(OSError):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            side.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    back = threading.Thread(target=_pass, args=(inner, outer), daemon=True)
    back.start()
    _pass(outer, inner)
    back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    try:
        while count := source.recv_into(buffer):
            target.sendall(buffer[:count])
    except OSError:
        pass
    finally:
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
