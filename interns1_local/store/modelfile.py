"""The Modelfile: its grammar, its errors with line numbers, and the text written back from a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store.options import parse_parameters

COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")

_COMMAND_ERROR = "command must be one of " + ", ".join(f'"{name}"' for name in COMMANDS[:-1]) + ', or "requires"'
_ROLE_ERROR = 'message role must be one of "system", "user", or "assistant"'
_WORD = re.compile(r"[A-Za-z]+(?=[ \t])")
_PARAMETER = re.compile(r"[A-Za-z0-9_]+(?=[ \t])")
_SEMVER = re.compile(r"v?\d+(\.\d+){0,2}([-+][0-9A-Za-z.+-]+)?")


class ModelfileError(BadRequest):
    code = "invalid_modelfile"


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction. `key` is the parameter's name of PARAMETER and the role of MESSAGE."""

    name: str
    value: str
    key: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Modelfile:
    commands: tuple[Command, ...]

    def values(self, name: str) -> list[str]:
        return [command.value for command in self.commands if command.name == name]

    def last(self, name: str) -> str | None:
        return next(iter(reversed(self.values(name))), None)

    @property
    def sources(self) -> list[str]:
        """What the FROM lines name: a model, or a file and its projector."""
        return self.values("from")

    @property
    def parameters(self) -> dict[str, Any]:
        return parse_parameters((entry.key, entry.value) for entry in self.commands if entry.name == "parameter")

    @property
    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": command.key, "content": command.value} for command in self.commands if command.name == "message"
        ]


def parse(text: str | bytes) -> Modelfile:
    """Read a Modelfile. An error names its line."""
    lines = _decode(text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    commands: list[Command] = []
    at = 0
    while at < len(lines):
        rest = lines[at].lstrip()
        if not rest or rest.startswith("#"):
            at += 1
            continue
        command, at = _command(lines, at, rest)
        commands.append(command)
    modelfile = Modelfile(tuple(commands))
    if not modelfile.sources:
        raise ModelfileError("no FROM line: a Modelfile names a model or a file, as in FROM ./model.gguf")
    requires = modelfile.last("requires")
    if requires is not None and not _SEMVER.fullmatch(requires):
        raise ModelfileError("requires must be a valid semver (e.g. 0.14.0)")
    _ = modelfile.parameters
    return modelfile


def render(modelfile: Modelfile) -> str:
    """The text that parses to the same commands."""
    return "".join(_render_command(command) + "\n" for command in modelfile.commands)


def from_parts(
    source: str | list[str],
    *,
    adapters: Sequence[str] = (),
    draft: str = "",
    template: str = "",
    system: str = "",
    parameters: dict[str, Any] | None = None,
    messages: list[dict[str, str]] | None = None,
    licenses: list[str] | None = None,
) -> Modelfile:
    """The Modelfile of a stored model, in the order in which Ollama prints it."""
    sources = [source] if isinstance(source, str) else source
    commands = [Command("from", text) for text in sources]
    # After the first source, the model's own file.
    commands[1:1] = [Command("adapter", path) for path in adapters] + ([Command("draft", draft)] if draft else [])
    if template:
        commands.append(Command("template", template))
    if system:
        commands.append(Command("system", system))
    for key, value in (parameters or {}).items():
        for item in value if isinstance(value, list) else [value]:
            commands.append(Command("parameter", parameter_text(item), key))
    commands += [Command("license", text) for text in licenses or []]
    commands += [Command("message", message.get("content", ""), message["role"]) for message in messages or []]
    return Modelfile(tuple(commands))


def parameter_text(value: Any) -> str:
    """A parameter's value as a Modelfile writes it: 1 for 1.0, true for True."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e15 else str(value)


def _decode(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if text.startswith(mark):
            return text[len(mark) :].decode(encoding, "replace")
    return text.decode("utf-8", "replace")


def _command(lines: list[str], at: int, rest: str) -> tuple[Command, int]:
    number = at + 1
    word = _WORD.match(rest)
    name = word.group().lower() if word else ""
    if word is None or name not in COMMANDS:
        given = rest.split(maxsplit=1)[0][:40]
        wrong = "has no value after it" if given.lower() in COMMANDS else "is none of them"
        raise ModelfileError(f"(line {number}): {_COMMAND_ERROR}; {given!r} {wrong}")
    rest = rest[word.end() :].lstrip(" \t")
    key = ""
    if name == "parameter":
        match = _PARAMETER.match(rest)
        if match is None:
            raise ModelfileError(f"(line {number}): unexpected EOF: PARAMETER needs a name and a value")
        key, rest = match.group(), rest[match.end() :]
    elif name == "message":
        match = _WORD.match(rest)
        key = match.group().lower() if match else ""
        if match is None or key not in ROLES:
            raise ModelfileError(f"(line {number}): {_ROLE_ERROR}")
        rest = rest[match.end() :]
    value, at = _value(lines, at, rest)
    return Command(name, value, key, number), at


def _value(lines: list[str], at: int, rest: str) -> tuple[str, int]:
    """The value that starts with `rest` on line `at`, and the line after it."""
    start, number = rest.strip(), at + 1
    mark = '"""' if start.startswith('"""') else '"' if start.startswith('"') else ""
    if not mark:
        return "".join(char for char in start if char.isprintable() or char == "\t"), at + 1
    text = rest.lstrip()
    while True:
        closed = text.rstrip()
        if len(closed) >= 2 * len(mark) and closed.endswith(mark):
            return closed[len(mark) : -len(mark)], at + 1
        at += 1
        if at == len(lines):
            raise ModelfileError(
                f"unexpected EOF: a quoted value is not closed; it begins on line {number} with {mark}"
            )
        text += "\n" + lines[at]


def _render_command(command: Command) -> str:
    head = command.name.upper() + (f" {command.key}" if command.key else "")
    return f"{head} {_quote(command.value)}"


def _quote(text: str) -> str:
    plain = text == text.strip() and "\n" not in text and not text.startswith('"')
    if plain and all(char.isprintable() or char == "\t" for char in text):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'
