"""The terminal chat: reads messages with history, completion and several lines, and answers until Ctrl-D."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from interns1_local.commands.chat import Chat
from interns1_local.commands.chat_commands import is_command, run_command
from interns1_local.commands.chat_completion import ChatCompleter
from interns1_local.commands.errors import explain
from interns1_local.config import load_settings

HISTORY_FILE = Path(".interns1", "history")
QUOTES = '"""'


def chat_loop(chat: Chat, images: Sequence[Path] = ()) -> None:
    """Chat until Ctrl-D or /bye. `images` go with the first message."""
    settings = load_settings()
    chat.keep_history = not settings.nohistory
    if settings.editor:
        # What prompt_toolkit looks at first.
        os.environ["VISUAL"] = settings.editor
    session = _session(chat)
    if chat.molecules:
        chat.molecules.prepare()
    try:
        chat.load()
    except KeyboardInterrupt:
        # The first message loads it.
        click.echo()
    while True:
        try:
            text = read_message(session)
            if is_command(text):
                run_command(chat, text)
            elif text.strip():
                chat.ask(_without_quotes(text), images)
                images = ()
                click.echo()
        except KeyboardInterrupt:
            click.echo("\nUse Ctrl + d or /bye to leave.")
        except EOFError:
            return
        except Exception as error:
            # A wrong path or a busy server ends the answer, not the chat.
            click.echo(f"Error: {explain(error)}\n", err=True)


def read_message(session: PromptSession[str]) -> str:
    """One line, or the lines between triple quotes."""
    lines = [session.prompt(">>> ", placeholder=[("fg:ansibrightblack", "Send a message (/? for help)")])]
    while "\n".join(lines).count(QUOTES) % 2:
        lines.append(session.prompt("... ", placeholder=""))
    return "\n".join(lines)


def _without_quotes(text: str) -> str:
    stripped = text.strip()
    if len(stripped) >= 2 * len(QUOTES) and stripped.startswith(QUOTES) and stripped.endswith(QUOTES):
        return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


class ChatHistory(FileHistory):
    """The history file; what is typed after `/set nohistory` is not written to it."""

    def __init__(self, path: Path, chat: Chat) -> None:
        super().__init__(str(path))
        self._chat = chat

    def store_string(self, string: str) -> None:
        if self._chat.keep_history:
            Path(str(self.filename)).parent.mkdir(parents=True, exist_ok=True)
            super().store_string(string)


def _session(chat: Chat) -> PromptSession[str]:
    keys = KeyBindings()

    @keys.add("c-g")
    def _edit(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor(validate_and_handle=True)

    return PromptSession(
        history=ChatHistory(Path.home() / HISTORY_FILE, chat),
        completer=ChatCompleter(chat.model_names),
        complete_while_typing=False,
        key_bindings=keys,
    )
