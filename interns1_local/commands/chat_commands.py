"""The slash commands of the terminal chat: a table from word to function."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from interns1_local.commands import model_options
from interns1_local.commands.attachments import unescaped
from interns1_local.commands.chat import Chat
from interns1_local.commands.molecule_view import MoleculeView
from interns1_local.config import GRAPHICS
from interns1_local.errors import BadRequest

SETTINGS = {
    "parameter": "/set parameter NAME VALUE  Set an option of the model",
    "system": "/set system TEXT           Set the system message",
    "history": "/set history               Keep what you type for the next chat",
    "nohistory": "/set nohistory             Do not keep it",
    "wordwrap": "/set wordwrap              Wrap long lines at words",
    "nowordwrap": "/set nowordwrap            Do not wrap lines",
    "format": "/set format json           Answers in JSON (or by a JSON schema, or a file with one)",
    "noformat": "/set noformat              Answers as text",
    "verbose": "/set verbose               Show speeds after each answer",
    "quiet": "/set quiet                 Do not show them",
    "markdown": "/set markdown              Show headings, tables, code and formulas as such",
    "nomarkdown": "/set nomarkdown            Show answers as the model writes them",
    "graphics": "/set graphics KIND         Draw molecules: auto, kitty, sixel, blocks, off",
    "think": "/set think [LEVEL|TOKENS]  Think before the answer (low, medium, high, max, or at most so many tokens)",
    "nothink": "/set nothink               Answer at once",
}
SHOWN = ("info", "license", "modelfile", "parameters", "system", "template")

_HELP = f"""Commands:
  /set            Change the chat (/set ? lists what)
  /show           Show the model ({", ".join(SHOWN)})
  /load MODEL     Talk to another model
  /save MODEL     Save this model and conversation under a name
  /clear          Begin a new conversation
  /retry          Send the last message again
  /tokens TEXT    Show how the model reads a text, molecules and proteins included
  /tiles PICTURE  Show what a picture or film would cost
  /list           List the models on this machine
  /bye            Leave
  /?, /help       This text
  /? shortcuts    Keys

Use \"\"\" to begin and end a message of several lines.
Name a picture or a film by its path, such as ./picture.png, to send it.
"""
_SHORTCUTS = """Keys:
  Ctrl + a / e    To the beginning / end of the line
  Ctrl + u / k    Delete to the beginning / end of the line
  Ctrl + w        Delete the word before the cursor
  Ctrl + r        Search what you typed before
  Tab             Complete a command, a model or the path of a picture
  Ctrl + g        Write the message in your editor
  Ctrl + l        Clear the screen
  Ctrl + c        Stop the answer
  Ctrl + d        Leave
"""


def run_command(chat: Chat, line: str) -> None:
    """Run `/word arguments`. Leaving raises EOFError, as Ctrl-D does."""
    word, _, argument = line.strip().partition(" ")
    action = COMMANDS.get(word.lower())
    if action is None:
        raise BadRequest(f"unknown command '{word}'. Type /? for help")
    action(chat, argument.strip())


def is_command(line: str) -> bool:
    """`/set ...` and misspelt `/sett` are commands; `/tmp/cat.png what is it?` is a message."""
    word = line.split(None, 1)[0] if line.strip() else ""
    if line.strip() == "?":
        return True
    return word.startswith("/") and (word.lower() in COMMANDS or (word[1:].isalpha() and word.isascii()))


def _help(chat: Chat, argument: str) -> None:
    click.echo(_SHORTCUTS if argument.startswith("shortcut") else _HELP)


def _bye(chat: Chat, argument: str) -> None:
    raise EOFError


def _clear(chat: Chat, argument: str) -> None:
    chat.forget()
    click.echo("Cleared session context")


def _retry(chat: Chat, argument: str) -> None:
    chat.retry()
    click.echo()


def _tokens(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadRequest("usage: /tokens TEXT")
    from interns1_local.commands.tokenize import echo_tokens

    echo_tokens(chat.client.post("/api/tokenize", {"model": chat.model, "content": argument, "details": True}))


def _tiles(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadRequest("usage: /tiles PICTURE")
    for note in chat.cost(Path(unescaped(argument.strip("'\""))).expanduser()):
        click.echo(note)


def _list(chat: Chat, argument: str) -> None:
    from interns1_local.commands.list import echo_models

    echo_models(chat.client.get("/api/tags").get("models") or [])


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadRequest("usage: /load MODEL")
    chat.open(argument)
    chat.load()
    click.echo(f"Loaded '{argument}'")


def _save(chat: Chat, argument: str) -> None:
    if not argument:
        raise BadRequest("usage: /save MODEL")
    request: dict[str, Any] = {"model": argument, "from": chat.model, "stream": False}
    if parameters := {**chat.options, **({} if chat.think is None else {"think": chat.think})}:
        request["parameters"] = parameters
    if chat.system:
        request["system"] = chat.system
    if chat.messages:
        request["messages"] = [{"role": each["role"], "content": each["content"]} for each in chat.messages]
    chat.client.post("/api/create", request)
    click.echo(f"Created new model '{argument}'")


def _show(chat: Chat, argument: str) -> None:
    if argument not in SHOWN:
        raise BadRequest(f"usage: /show {'|'.join(SHOWN)}")
    facts = chat.client.post("/api/show", {"model": chat.model})
    if argument == "info":
        from interns1_local.commands.show import echo_facts

        echo_facts(facts)
    elif argument == "parameters":
        click.echo(f"Model defined parameters:\n{_indent(facts.get('parameters') or 'none')}\n")
        mine = "\n".join(f"{name:<30} {value}" for name, value in chat.options.items())
        click.echo(f"User defined parameters:\n{_indent(mine or 'none')}\n")
    elif argument == "system":
        click.echo(chat.system or facts.get("system") or "No system message was specified for this model.")
    else:
        click.echo(facts.get(argument) or f"No {argument} was specified for this model.")


def _set(chat: Chat, argument: str) -> None:
    name, _, value = argument.partition(" ")
    value = value.strip()
    setter = _SETTERS.get(name)
    if setter is None:
        click.echo("Available settings:\n" + "\n".join(f"  {line}" for line in SETTINGS.values()) + "\n")
        return
    click.echo(setter(chat, value))


def _set_parameter(chat: Chat, value: str) -> str:
    name, *values = value.split()
    if not values:
        raise BadRequest("usage: /set parameter NAME VALUE")
    chat.options[name] = model_options.parse_option(name, values)
    return f"Set parameter '{name}' to '{', '.join(values)}'"


def _set_system(chat: Chat, value: str) -> str:
    chat.system = value.strip().removeprefix('"""').removesuffix('"""').strip()
    return "Set system message."


def _set_format(chat: Chat, value: str) -> str:
    path = os.path.expanduser(unescaped(value))
    chat.format = model_options.parse_format(path if os.path.isfile(path) else value or "json")
    return f"Set format to '{value or 'json'}' mode."


def _set_think(chat: Chat, value: str) -> str:
    budget = int(value) if value.isdecimal() and int(value) > 1 else None
    chat.think = True if budget else model_options.parse_think(value or "true")
    if budget:
        chat.options["think_budget"] = budget
    if chat.think and "thinking" not in chat.capabilities:
        return f"warning: model '{chat.model}' does not support thinking"
    if budget:
        return f"Set 'think' mode, at most {budget} tokens."
    return f"Set 'think' mode{f' to {value}' if value else ''}."


def _set_graphics(chat: Chat, value: str) -> str:
    if value not in GRAPHICS:
        raise BadRequest(f"usage: /set graphics {'|'.join(GRAPHICS)}")
    chat.molecules = MoleculeView(value)
    return f"Set 'graphics' to '{value}'."


def _field(name: str, value: Any, sentence: str) -> Callable[[Chat, str], str]:
    def set_field(chat: Chat, _: str) -> str:
        setattr(chat, name, value)
        return sentence

    return set_field


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


_SETTERS: dict[str, Callable[[Chat, str], str]] = {
    "parameter": _set_parameter,
    "system": _set_system,
    "history": _field("keep_history", True, "Set 'history' mode."),
    "nohistory": _field("keep_history", False, "Set 'nohistory' mode."),
    "wordwrap": _field("wordwrap", True, "Set 'wordwrap' mode."),
    "nowordwrap": _field("wordwrap", False, "Set 'nowordwrap' mode."),
    "format": _set_format,
    "noformat": _field("format", None, "Disabled format."),
    "markdown": _field("markdown", True, "Set 'markdown' mode."),
    "nomarkdown": _field("markdown", False, "Set 'nomarkdown' mode."),
    "graphics": _set_graphics,
    "verbose": _field("verbose", True, "Set 'verbose' mode."),
    "quiet": _field("verbose", False, "Set 'quiet' mode."),
    "think": _set_think,
    "nothink": _field("think", False, "Set 'nothink' mode."),
}
COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "/set": _set,
    "/show": _show,
    "/load": _load,
    "/save": _save,
    "/clear": _clear,
    "/retry": _retry,
    "/tokens": _tokens,
    "/tiles": _tiles,
    "/list": _list,
    "/bye": _bye,
    "/exit": _bye,
    "/help": _help,
    "/?": _help,
    "?": _help,
}
