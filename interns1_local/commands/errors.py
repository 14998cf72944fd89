"""Which sentence a person reads for each kind of error. Commands raise; this table explains."""

from __future__ import annotations

import os
from collections.abc import Callable

from interns1_local.errors import InternS1Error


class ServerError(InternS1Error):
    """The server answered with an error."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class NoServer(InternS1Error):
    """No server answers where the settings say that one should be."""

    def __init__(self, base_url: str) -> None:
        super().__init__(f"could not connect to the interns1 server at {base_url}, run 'interns1 serve' to start it")


def explain(error: Exception) -> str:
    """One sentence for `error`, by the most special class that the table knows."""
    if os.environ.get("INTERNS1_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    for kind in type(error).__mro__:
        sentence = _SENTENCES.get(f"{kind.__module__}.{kind.__qualname__}")
        if sentence:
            return sentence(error)
    return f"unexpected {type(error).__name__}: {error} (INTERNS1_DEBUG=1 shows where)"


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__


def _file_error(error: Exception) -> str:
    assert isinstance(error, OSError)
    reason = (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def _cut_off(error: Exception) -> str:
    return "the server closed the connection before its answer was complete; its log says why"


def _timeout(error: Exception) -> str:
    return "the server did not answer in time"


# By name, so that explaining an error never imports the libraries that the command did not need.
_SENTENCES: dict[str, Callable[[Exception], str]] = {
    "interns1_local.errors.InternS1Error": _message,
    "convert.errors.ConvertError": _message,
    "quant.errors.QuantError": _message,
    "httpx.ConnectError": lambda error: f"could not connect to the server: {error}",
    "httpx.TimeoutException": _timeout,
    "httpx.NetworkError": _cut_off,
    "httpx.RemoteProtocolError": _cut_off,
    "httpx.HTTPError": lambda error: f"the server could not be asked: {error}",
    "httpx.InvalidURL": lambda error: f"INTERNS1_HOST is not an address: {error}",
    "builtins.FileNotFoundError": lambda error: f"{getattr(error, 'filename', None) or error}: there is no such file",
    "builtins.OSError": _file_error,
    "builtins.MemoryError": lambda error: "not enough memory",
    "builtins.ModuleNotFoundError": lambda error: f"{error}; reinstall interns1-local to repair it",
}
