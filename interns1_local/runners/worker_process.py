"""A worker as a process: started, with a socket to it and what it printed last; and the one that waits for a model.

Nothing here needs an event loop or takes long to import: a server starts its first worker before all else.
"""

from __future__ import annotations

import hmac
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

from interns1_local import child_python

LOG_LINES = 200
# For the last lines of a process that has ended.
LOG_SECONDS = 1.0
HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
_MODULE = "interns1_local.runners.worker"


class WorkerProcess:
    """A process of `runners/worker`, which waits for a model. It ends with its socket, so with this process too.

    `exited` has its exit code when it has ended and its last lines are in `log`; `echo` prints them as they come.
    """

    def __init__(self) -> None:
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.echo = False
        self.exited: Future[int] = Future()
        # Who gives up waiting does not change that it will end.
        self.exited.set_running_or_notify_cancel()
        self._socket: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._token = b""
        environment = child_python.environment(GGML_NO_BACKTRACE="1", PYTHONUNBUFFERED="1")
        if HAS_UNIX_SOCKETS:
            self._socket, theirs = socket.socketpair()
            with theirs:
                self._process = _start(str(theirs.fileno()), environment, (theirs.fileno(),))
        else:
            # Loopback TCP, and a token so that no other process can take the place.
            self._listener, self._token = socket.create_server(("127.0.0.1", 0)), os.urandom(32)
            environment["INTERNS1_WORKER_TOKEN"] = self._token.hex()
            self._process = _start(f"tcp:{self._listener.getsockname()[1]}", environment)
        self._reader = threading.Thread(target=self._collect_log, name="worker log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._await_end, name="worker end", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    def connect(self, timeout: float | None = None) -> socket.socket:
        """The socket to the worker; once. Over TCP it waits for it. TimeoutError after `timeout` seconds."""
        found, self._socket = self._socket, None
        if found is None:
            assert self._listener is not None, "a worker has one connection"
            with self._listener:
                self._listener.settimeout(timeout)
                while found is None:
                    found = self._accepted(self._listener.accept()[0], timeout)
        return found

    def _accepted(self, connection: socket.socket, timeout: float | None) -> socket.socket | None:
        """`connection` if it is the worker's."""
        connection.settimeout(timeout)
        offered = b""
        with suppress(OSError):
            while len(offered) < len(self._token) and (part := connection.recv(len(self._token) - len(offered))):
                offered += part
        if hmac.compare_digest(offered, self._token):
            return connection
        connection.close()
        return None

    def close(self) -> None:
        """Let it end, if nobody is connected to it."""
        for end in (self._socket, self._listener):
            if end is not None:
                end.close()

    def kill(self) -> None:
        """End it at once."""
        self.close()
        self._process.kill()

    def _collect_log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.strip():
                    self.log.append(line.rstrip("\n"))
                if self.echo:
                    print(line, end="", file=sys.stderr)

    def _await_end(self) -> None:
        code = self._process.wait()
        # Whatever else holds the other end of the pipe is not waited for.
        self._reader.join(LOG_SECONDS)
        self.exited.set_result(code)


class SpareWorker:
    """At most one worker that waits for a model, with Python and llama.cpp imported: a load takes it and is quicker."""

    def __init__(self) -> None:
        self._waiting: WorkerProcess | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Start one, if none waits."""
        # Where no process can be started, the next load says so.
        with self._lock, suppress(OSError):
            self._waiting = self._pop() or WorkerProcess()

    def take(self) -> WorkerProcess:
        """The one that waits, else a new one."""
        with self._lock:
            return self._pop() or WorkerProcess()

    def close(self) -> None:
        """End the one that waits."""
        with self._lock:
            found = self._pop()
        if found is not None:
            found.kill()
            found.exited.result()

    def _pop(self) -> WorkerProcess | None:
        found, self._waiting = self._waiting, None
        if found is None or found.alive:
            return found
        found.close()
        return None


def _start(address: str, environment: dict[str, str], inherited: tuple[int, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        child_python.command(_MODULE, address),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=inherited,
        text=True,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C in a terminal is for the server, which then ends its workers.
        start_new_session=True,
    )
