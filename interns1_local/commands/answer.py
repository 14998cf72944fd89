"""One answer, streamed to the terminal: thought, text, tool calls, and its figures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from interns1_local.commands import terminal_style
from interns1_local.commands.format import format_seconds
from interns1_local.commands.keyboard import unseen_typing

if TYPE_CHECKING:
    from rich.status import Status

    from interns1_local.commands.client import Client
    from interns1_local.commands.markdown_stream import MarkdownStream
    from interns1_local.commands.styled_wrap import StyledWrap


@dataclass
class Answer:
    """What has come so far; `stopped` when a person pressed Ctrl-C."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False

    def add(self, chunk: dict[str, Any]) -> None:
        """One chunk of /api/chat."""
        message = chunk.get("message") or {}
        self.text += message.get("content") or ""
        self.thinking += message.get("thinking") or ""
        self.tool_calls += message.get("tool_calls") or []
        if chunk.get("done"):
            self.figures = {key: value for key, value in chunk.items() if key != "message"}

    def message(self) -> dict[str, Any]:
        """As the assistant's turn in the history."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.thinking:
            message["thinking"] = self.thinking
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message

    @property
    def tokens_per_second(self) -> float:
        nanoseconds = self.figures.get("eval_duration") or 0
        return self.figures.get("eval_count", 0) / nanoseconds * 1e9 if nanoseconds else 0.0


class AnswerWriter:
    """Writes the parts of an answer to stdout as they come: thoughts dim and Markdown on a terminal, else plain."""

    def __init__(self, *, hide_thinking: bool = False, wordwrap: bool = True, markdown: bool = True) -> None:
        self._terminal = terminal_style.shows_styles()
        self._hide_thinking = hide_thinking
        self._thinking = False
        self._wrote = False
        self._parts: list[str] = []
        self._markdown: MarkdownStream | None = None
        self._wrap: StyledWrap | None = None
        if self._terminal:
            self._style_for(wordwrap, markdown)
        self._spinner: Status | None = None
        if self._terminal and sys.stderr.isatty():
            self._spinner = _status("")
            self._spinner.start()

    def write(self, message: dict[str, Any]) -> None:
        """One chunk's message."""
        thinking, content = message.get("thinking"), message.get("content")
        if thinking and not self._hide_thinking:
            self._write_thinking(thinking)
        if content or message.get("tool_calls"):
            self._end_thinking()
        if content:
            self._write_content(content)
        for call in message.get("tool_calls") or ():
            if self._wrote:
                self._end_content()
            self._put(_call_line(call))
            self._wrote = True
        self._flush()

    def close(self) -> None:
        """End the answer with exactly one line end; the terminal is never left dim."""
        if self._thinking:
            self._end_thinking()
        elif self._wrote:
            self._end_content()
        self._flush()
        self._stop_spinner()

    def _style_for(self, wordwrap: bool, markdown: bool) -> None:
        from interns1_local.commands.markdown_stream import MarkdownStream
        from interns1_local.commands.styled_wrap import StyledWrap

        def size() -> tuple[int, int]:
            return terminal_style.columns() if wordwrap else 0, terminal_style.rows()

        self._wrap = StyledWrap(self._put, lambda: size()[0], terminal_style.paint)
        self._markdown = MarkdownStream(self._put, size) if markdown else None

    def _write_content(self, text: str) -> None:
        self._wrote = True
        if self._markdown:
            self._markdown.feed(text)
        elif self._wrap:
            self._wrap.put(terminal_style.without_controls(text))
        else:
            self._put(text)

    def _end_content(self) -> None:
        if self._markdown:
            self._markdown.close()
        elif self._wrap:
            self._wrap.end()
        else:
            self._put("\n")

    def _write_thinking(self, text: str) -> None:
        if not self._thinking:
            self._thinking = True
            self._put(self._dim("Thinking...") + "\n")
        if self._wrap:
            self._wrap.put(terminal_style.without_controls(text), "dim")
        else:
            self._put(text)

    def _end_thinking(self) -> None:
        if not self._thinking:
            return
        self._thinking = False
        if self._wrap:
            self._wrap.end()
        else:
            self._put("\n")
        self._put(self._dim("...done thinking.") + "\n\n")

    def _dim(self, text: str) -> str:
        return terminal_style.paint(text, "dim") if self._terminal else text

    def _put(self, text: str) -> None:
        self._parts.append(text)

    def _flush(self) -> None:
        """One write for a chunk, so that nothing half drawn is seen."""
        text = "".join(self._parts)
        self._parts.clear()
        if text:
            self._stop_spinner()
            click.echo(text, nl=False)

    def _stop_spinner(self) -> None:
        if self._spinner:
            self._spinner.stop()
            self._spinner = None


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows on a terminal that something takes its time."""
    if not (terminal_style.shows_styles() and sys.stderr.isatty()):
        yield
        return
    with _status(text):
        yield


def _status(text: str) -> Status:
    from rich.console import Console

    return Console(stderr=True).status(text)


def stream_answer(client: Client, request: dict[str, Any], writer: AnswerWriter) -> Answer:
    """Ask /api/chat and write the answer. Ctrl-C ends it, and what has come is kept."""
    answer = Answer()
    try:
        with unseen_typing(), closing(client.stream("/api/chat", request)) as chunks:
            for chunk in chunks:
                answer.add(chunk)
                writer.write(chunk.get("message") or {})
    except KeyboardInterrupt:
        answer.stopped = True
    finally:
        writer.close()
    return answer


def echo_figures(figures: dict[str, Any]) -> None:
    """What `--verbose` adds, on stderr."""

    def line(name: str, value: str) -> None:
        click.echo(f"{name + ':':<22}{value}", err=True)

    for key in ("total_duration", "load_duration"):
        if figures.get(key):
            line(key.replace("_", " "), format_seconds(figures[key] / 1e9))
    for key in ("prompt_eval", "eval"):
        count, duration = figures.get(f"{key}_count", 0), figures.get(f"{key}_duration", 0)
        name = key.replace("_", " ")
        if count:
            line(f"{name} count", f"{count} token(s)")
        if duration:
            line(f"{name} duration", format_seconds(duration / 1e9))
            line(f"{name} rate", f"{count / duration * 1e9:.2f} tokens/s")


def _call_line(call: dict[str, Any]) -> str:
    function = call.get("function") or {}
    return f"{function.get('name')}({json.dumps(function.get('arguments') or {}, ensure_ascii=False)})"
