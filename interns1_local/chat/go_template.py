"""Go templates, which Ollama's models carry: told from Jinja, and translated to it where all of one is understood.

The twin does what Ollama does with the template: neighbours of one role are one message, joined by an empty line. A
template with `.Messages` is executed once. One with `.Prompt` and `.Response` only is executed once a turn, and for
the last turn what follows `.Response` is cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

# Far above real templates, and low enough that a hostile one costs nothing.
_MAX_TEXT = 100_000
_MAX_ACTIONS = 2_000
_MAX_DEPTH = 32
_MAX_VALUES = 16

_SPACE = " \t\r\n"
_OPEN = re.compile(r"\{\{(?:-(?=[ \t\r\n]))?")
_CLOSE = re.compile(r"[ \t\r\n]*\}\}|([ \t\r\n]+-)\}\}")
_COMMENT = re.compile(r"[ \t\r\n]*/\*.*?\*/([ \t\r\n]+-)?\}\}", re.DOTALL)
_TOKEN = re.compile(r'[ \t\r\n]+|"(?:[^"\\\n]|\\.)*"|`[^`]*`|[.$\w][.$\w]*|:=|[-=|,()]')
# How actions of Go begin, that mean nothing in Jinja or, with a statement of Jinja about, could not be meant as Jinja.
_GO = re.compile(r'\{\{(?:-(?=\s))?\s*(?:[.$]|/\*|(?:if|else|end|currentDate)\b|(?!not\b)\w+\s+[.$"`])')
_SURELY_GO = re.compile(r"\{\{(?:-(?=\s))?\s*(?:\.[A-Z]|\$|/\*)")

# What fields are in the twin. Ollama gives no value to some, which is false, and is printed so.
_NO_VALUE = "none"
_ABSENT = {"Suffix": _NO_VALUE, "First": _NO_VALUE}
_TURN = {"System": "go.system", "Prompt": "go.prompt", "Response": "go.response", **_ABSENT}
_ROOT = {"System": "system", "Messages": "messages", "Response": "''", "Prompt": _NO_VALUE, **_ABSENT}
_MESSAGE = {"Role": "role", "Content": "content"}

_LAST_OF_ROLE = "{% if loop.last or loop.nextitem.role != message.role or message.role == 'tool' %}"
_CONTENT = r"{% set content = messages[go.start:loop.index] | map(attribute='content') | join('\n\n') %}"
_NEXT = "{% set go.start = loop.index %}{% endif %}{% endfor %}"
_RANGE = (
    "{% set go.start = 0 %}{% for message in messages %}" + _LAST_OF_ROLE + _CONTENT + "{% set role = message.role %}"
)
_ONCE = (
    "{% set go = namespace(start=0) %}{% set system = messages | selectattr('role', 'equalto', 'system')"
    r" | map(attribute='content') | join('\n\n') %}"
)
# The template is written once: one message more than there are ends the last turn.
_TURNS = (
    "{% set go = namespace(start=0, system='', prompt='', response='') %}"
    "{% for message in messages + [{'role': none, 'content': ''}] %}"
    + _LAST_OF_ROLE
    + _CONTENT
    + "{% if loop.last or (message.role == 'system' and (go.prompt or go.response))"
    " or (message.role == 'user' and go.response) %}{% set whole = not (loop.last and add_generation_prompt) %}"
)
_TURN_END = (
    "{% set go.system = '' %}{% set go.prompt = '' %}{% set go.response = '' %}{% endif %}"
    "{% if message.role == 'system' %}{% set go.system = content %}"
    "{% elif message.role == 'user' %}{% set go.prompt = content %}"
    "{% elif message.role == 'assistant' %}{% set go.response = content %}{% endif %}" + _NEXT
)


class NotUnderstood(ValueError):
    """What of a template is outside the part of Go that is translated, and its line."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(f"{what} (line {line})")


@dataclass(frozen=True, slots=True)
class _Action:
    tokens: tuple[str, ...]
    line: int


def is_go_template(text: str) -> bool:
    """Whether a template is Go's, or plain text, which is the same in both. Jinja's values begin with no point."""
    if "{%" in text:
        return bool(_SURELY_GO.search(text))
    return "{{" not in text or bool(_GO.search(text))


def jinja_twin(text: str) -> str | None:
    """The Jinja that writes the prompts which Ollama writes by this Go template; None when not all is understood."""
    return _translated(text)[0]


def not_understood(text: str) -> str | None:
    """Why there is no twin: the first thing outside what is translated, such as `"slice" (line 3)`."""
    return _translated(text)[1]


@lru_cache(maxsize=64)
def _translated(text: str) -> tuple[str | None, str | None]:
    try:
        if len(text) > _MAX_TEXT:
            raise NotUnderstood(f"more than {_MAX_TEXT} characters", 1)
        text.encode()
        return _Translator(list(_pieces(text))).twin(), None
    except NotUnderstood as reason:
        return None, str(reason)
    except UnicodeEncodeError as error:
        return None, f"half a character (line {text.count(chr(10), 0, error.start) + 1})"


def _pieces(source: str) -> Iterator[str | _Action]:
    """Texts, trimmed as the marks say, and actions. Comments are passed over."""
    at, trims, actions = 0, False, 0
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        text = text.lstrip(_SPACE) if trims else text
        opened = None if start < 0 else _OPEN.match(source, start)
        if opened is not None and opened.group().endswith("-"):
            text = text.rstrip(_SPACE)
        if text:
            yield text
        if opened is None:
            return
        line = source.count("\n", 0, start) + 1
        actions += 1
        if actions > _MAX_ACTIONS:
            raise NotUnderstood(f"more than {_MAX_ACTIONS} actions", line)
        comment = _COMMENT.match(source, opened.end())
        if comment is not None:
            at, trims = comment.end(), comment.group(1) is not None
            continue
        tokens, at, trims = _read_action(source, opened.end(), line)
        yield _Action(tokens, line)


def _read_action(source: str, at: int, line: int) -> tuple[tuple[str, ...], int, bool]:
    tokens: list[str] = []
    while (closed := _CLOSE.match(source, at)) is None:
        found = _TOKEN.match(source, at)
        if found is None:
            what = _quoted(source[at]) if at < len(source) else "an action that is not closed"
            raise NotUnderstood(what, line)
        if not found.group().isspace():
            tokens.append(found.group())
        at = found.end()
    if not tokens:
        raise NotUnderstood("an empty action", line)
    return tuple(tokens), closed.end(), closed.group(1) is not None


class _Translator:
    """One walk over the pieces. `_blocks` holds what is open: if, else, range."""

    def __init__(self, pieces: list[str | _Action]) -> None:
        self._pieces = pieces
        words = {
            part.lower()
            for piece in pieces
            if isinstance(piece, _Action)
            for token in piece.tokens
            if token[0] in ".$"
            for part in token.split(".")
        }
        self._by_turns = "messages" not in words
        self._has_response = "response" in words
        self._out: list[str] = []
        self._blocks: list[str] = []
        self._is_cut = False
        self._line = 1

    def twin(self) -> str:
        for piece in self._pieces:
            if isinstance(piece, str):
                self._print(_literal(piece))
            else:
                self._line = piece.line
                self._action(list(piece.tokens))
        if self._blocks:
            raise NotUnderstood("a block without its end", self._line)
        if self._by_turns and not self._has_response:
            self._print("go.response")
        body = "".join(self._out)
        return _TURNS + body + _TURN_END if self._by_turns else _ONCE + body

    def _action(self, tokens: list[str]) -> None:
        match tokens:
            case ["end"] if self._blocks:
                self._out.append(_NEXT if self._blocks.pop() == "range" else "{% endif %}")
            case ["else"] if self._blocks and self._blocks[-1] == "if":
                self._blocks[-1] = "else"
                self._out.append("{% else %}")
            case ["else", "if", *condition] if self._blocks and self._blocks[-1] == "if":
                self._out.append(f"{{% elif {self._condition(condition)} %}}")
            case ["if", *condition]:
                self._out.append(f"{{% if {self._condition(condition)} %}}")
                self._open("if")
            case ["range", *over]:
                self._range(over)
            case [value]:
                self._print(self._value(value))
                # What a condition reads is no place of the answer.
                self._is_cut |= self._by_turns and value == ".Response"
            case [value, other, *_]:
                raise self._refused(other if value[0] in '."`' else value)

    def _range(self, over: list[str]) -> None:
        match over:
            case [first, ",", second, ":=", *rest] if first[0] == second[0] == "$":
                over = rest
            case [first, ":=", *rest] if first[0] == "$":
                over = rest
        if over not in ([".Messages"], ["$.Messages"]) or "range" in self._blocks:
            raise self._refused(" ".join(["range", *over]))
        self._out.append(_RANGE)
        self._open("range")

    def _open(self, block: str) -> None:
        self._blocks.append(block)
        if len(self._blocks) > _MAX_DEPTH:
            raise NotUnderstood(f"more than {_MAX_DEPTH} blocks in one another", self._line)

    def _condition(self, tokens: list[str]) -> str:
        rest = tokens[::-1]
        condition = self._expression(rest, 0)
        if rest:
            raise self._refused(rest[-1])
        return condition

    def _expression(self, rest: list[str], depth: int) -> str:
        """Takes one call of a function, or one value, from the end of `rest`, which is the tokens turned round."""
        name = rest.pop() if rest and rest[-1] in ("eq", "ne", "and", "or", "not") else ""
        values: list[str] = []
        while rest and rest[-1] != ")":
            token = rest.pop()
            if token == "(" and depth < _MAX_DEPTH:
                values.append(f"({self._expression(rest, depth + 1)})")
                if not rest:
                    raise self._refused(token)
                rest.pop()
            else:
                values.append(self._value(token))
        if name == "eq" and 2 <= len(values) <= _MAX_VALUES:
            return " or ".join(f"{values[0]} == {value}" for value in values[1:])
        if name in ("and", "or") and 1 <= len(values) <= _MAX_VALUES:
            return f" {name} ".join(values)
        if name == "ne" and len(values) == 2:
            return f"{values[0]} != {values[1]}"
        if name in ("", "not") and len(values) == 1:
            return f"{name} {values[0]}".strip()
        raise NotUnderstood(f"{_quoted(name or 'if')} with {len(values)} values", self._line)

    def _value(self, token: str) -> str:
        if token[0] in '"`':
            try:
                text: str = token[1:-1] if token[0] == "`" else json.loads(token)
                text.encode()
                return _literal(text)
            except ValueError:
                raise self._refused(token) from None
        root = _TURN if self._by_turns else _ROOT
        if token.startswith("$."):
            found = root.get(token[2:])
        else:
            fields = _MESSAGE if "range" in self._blocks else root
            found = fields.get(token[1:]) if token[0] == "." else None
        if found is None:
            raise self._refused(token)
        return found

    def _print(self, value: str) -> None:
        shown = f"{{{{ {_literal('<no value>') if value == _NO_VALUE else value} }}}}"
        self._out.append(f"{{% if whole %}}{shown}{{% endif %}}" if self._is_cut else shown)

    def _refused(self, token: str) -> NotUnderstood:
        return NotUnderstood(_quoted(token), self._line)


def _quoted(token: str) -> str:
    return json.dumps(token[:40], ensure_ascii=False)


def _literal(text: str) -> str:
    """A string of Jinja. Nothing in it may end it, open a block or (thoughts stay) look like a place for pictures."""
    return "'" + re.sub(r"[\\'{}%#\x00-\x1f\x7f-\x9f\u2028\u2029]|<(?!/?think>)", _escape, text) + "'"


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"
