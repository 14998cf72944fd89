"""Calls of tools as grammars, so that a model must call, or must call rightly: a table of the styles of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interns1_local.chat.tool_parsers import parameter_schemas
from interns1_local.chat.tool_parsers.parameter_types import is_text, parameter_types
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.constraints import MAX_SCHEMA, Constraint, answer_rule, json_rule, literal, within

Tools = Sequence[Mapping[str, Any]]
Schema = Mapping[str, Any]

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_GAP = "WS: /[ \\t\\r\\n]{1,96}/"
# Restrictions of a text that is written without quotes, for which JSON's grammar is no help.
_RESTRICTED = ("pattern", "format", "minLength", "maxLength")


@dataclass(frozen=True, slots=True)
class CallStyle:
    """How a model writes its calls: the marks around one, what is between two, and a call's body as Lark rules."""

    opening: tuple[str, ...]
    closing: tuple[str, ...]
    between: str
    rules: Callable[[str, str, Schema], list[str]]


def calls_grammar(
    style: str | None,
    tools: Tools,
    vocabulary: Sequence[str],
    *,
    name: str | None = None,
    parallel: bool = True,
    or_answer: Constraint | None = None,
) -> str:
    """A grammar of calls: of the tool `name` or of any; or, with `or_answer`, an answer of that form.

    `vocabulary` are the model's tokens: marks that are none of them are spelled. Raises Unsupported for a style that
    has no grammar here, BadRequest for a tool that is not there and for schemas that are too large.
    """
    form = _style(style)
    chosen = [tool for tool in tools if name in (None, _function(tool).get("name"))]
    if not chosen:
        raise BadRequest(f'tool_choice names "{name}", which is not among the tools')
    opening, closing = (" ".join(_mark(mark, vocabulary) for mark in side) for side in (form.opening, form.closing))
    more = f"({literal(form.between)} call)*" if form.between else "call*"
    lines = ["start: calls" + (" | answer" if or_answer else ""), f"calls: call {more}" if parallel else "calls: call"]
    lines.append(f"call: {opening} body {closing}")
    if or_answer is not None:
        lines.append(f"answer: {answer_rule(or_answer)}")
    schemas = parameter_schemas(chosen)
    return _joined(lines, form, {_name(tool): schemas.get(_name(tool), _NO_ARGUMENTS) for tool in chosen})


def strict_calls(style: str | None, tools: Tools, vocabulary: Sequence[str]) -> tuple[str, str] | None:
    """The mark of a call, and the grammar of what follows it, where a tool asks for that by `"strict": true`.

    Other tools may have any arguments; their names are held to as well.
    """
    if not any(_function(tool).get("strict") is True for tool in tools):
        return None
    form = _style(style)
    schemas = parameter_schemas(tools)
    held: dict[str, Schema] = {}
    for tool in tools:
        strict = _function(tool).get("strict") is True
        held[_name(tool)] = schemas.get(_name(tool), _NO_ARGUMENTS) if strict else {"type": "object"}
    closing = " ".join(_mark(mark, vocabulary) for mark in form.closing)
    return "".join(form.opening), _joined([f"start: body {closing}"], form, held)


def opening_mark(style: str | None) -> str:
    """What no call can begin without; nothing for a style that is not known here."""
    return "" if style is None or style not in CALL_STYLES else CALL_STYLES[style].opening[0]


def _joined(lines: list[str], form: CallStyle, schemas: Mapping[str, Schema]) -> str:
    lines = [*lines, "body: " + " | ".join(f"body{index}" for index in range(len(schemas))), _GAP]
    for index, (name, schema) in enumerate(schemas.items()):
        lines += form.rules(f"body{index}", name, schema)
    return within("\n".join(lines) + "\n", MAX_SCHEMA)


def _json_rules(arguments: str) -> Callable[[str, str, Schema], list[str]]:
    """`{"name": ..., "parameters": {...}}` on lines of its own."""

    def rules(rule: str, name: str, schema: Schema) -> list[str]:
        # Each schema is a rule of its own: a reference in it counts from its own root.
        words = ("{", '"name"', ":", json.dumps(name, ensure_ascii=False), ",", f'"{arguments}"', ":")
        written = " WS? ".join(literal(word) for word in words)
        return [
            f'{rule}: "\\n" {written} WS? {rule}_arguments WS? "}}" "\\n"?',
            f"{rule}_arguments: {json_rule(dict(schema))}",
        ]

    return rules


def _xml_rules(rule: str, name: str, schema: Schema) -> list[str]:
    """`<function=name>`, then each parameter in its tags, in the order of the schema."""
    properties = schema.get("properties")
    required = schema.get("required") or ()
    body, lines = "", []
    for index, (key, parameter) in enumerate(properties.items() if isinstance(properties, Mapping) else ()):
        place = f"{rule}_{index}"
        body += f" {place}" + ("" if key in required else "?")
        head = literal(f"<parameter={key}>\n")
        lines += [f"{place}: {head} {place}_value", *_xml_value(f"{place}_value", key, parameter, schema)]
    head, tail = literal(f"\n<function={name}>\n"), literal("</function>\n")
    return [f"{rule}: {head}{body} {tail}", *lines]


def _xml_value(rule: str, key: str, parameter: Any, schema: Schema) -> list[str]:
    end = literal("\n</parameter>\n")
    given = parameter if isinstance(parameter, Mapping) else {}
    types = parameter_types(schema, key)
    if not is_text(types) and "string" not in types:
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        return [f"{rule}: {json_rule({**shared, **given})} {end}"]
    choices = [given["const"]] if "const" in given else given.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
        return [f"{rule}: ({' | '.join(literal(choice) for choice in choices)}) {end}"]
    if restriction := next((word for word in _RESTRICTED if word in given), None):
        raise Unsupported(f'"{restriction}" of the parameter "{key}" cannot be enforced in this model\'s form of calls')
    return [f"{rule}[suffix={end}]: /(.|\\n)*/"]


CALL_STYLES = {
    "interns1": CallStyle(("<|action_start|>", "<|plugin|>"), ("<|action_end|>",), "", _json_rules("parameters")),
    "qwen3": CallStyle(("<tool_call>",), ("</tool_call>",), "\n", _json_rules("arguments")),
    "qwen3_coder": CallStyle(("<tool_call>",), ("</tool_call>",), "\n", _xml_rules),
}


def _style(style: str | None) -> CallStyle:
    if style is None or style not in CALL_STYLES:
        raise Unsupported("calls of tools cannot be enforced: the form of this model's calls has no grammar here")
    return CALL_STYLES[style]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _name(tool: Mapping[str, Any]) -> str:
    return str(_function(tool).get("name"))


def _mark(mark: str, vocabulary: Sequence[str]) -> str:
    # <[id]> is llguidance's way to write a token.
    return f"<[{vocabulary.index(mark)}]>" if mark in vocabulary else literal(mark)
