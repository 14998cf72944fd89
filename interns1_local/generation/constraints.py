"""What an answer is held to, as one grammar for the worker: JSON, a schema, a regex, a grammar, or calls of tools."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from interns1_local.errors import BadRequest

Kind = Literal["json", "json_schema", "regex", "choice", "lark", "gbnf"]

# Characters. What compiling costs grows faster than the grammar; these take a few seconds at worst.
MAX_SCHEMA = 1 << 17
MAX_SOURCE = 1 << 15
# JSON allows any white space between its words, and a model might go on with it for ever.
_WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,96}"
# What JSON Schema defines. Any other format says something to people (int32, password) and restricts nothing.
_FORMATS = frozenset(
    ("date-time", "date", "time", "duration", "email", "idn-email", "hostname", "idn-hostname", "ipv4", "ipv6", "uuid",
     "uri", "uri-reference", "uri-template", "iri", "iri-reference", "json-pointer", "relative-json-pointer", "regex")
)  # fmt: skip
# Under these are values, not schemas; under those are schemas by names of the user's own.
_VALUES = frozenset(("const", "enum", "default", "example", "examples"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))


@dataclass(frozen=True, slots=True)
class Constraint:
    """`value` is the schema of json_schema, the texts of choice, and the source of a regex or a grammar."""

    kind: Kind
    value: Any = None


def answer_grammar(constraint: Constraint) -> str:
    """The grammar in llguidance's Lark. Raises BadRequest for what cannot be one; whether it is one the worker says."""
    match constraint.kind:
        case "lark":
            return within(str(constraint.value), MAX_SOURCE)
        case "gbnf":
            return _from_gbnf(within(str(constraint.value), MAX_SOURCE))
        case _:
            return f"start: {answer_rule(constraint)}\n"


def answer_rule(constraint: Constraint) -> str:
    """The right side of a Lark rule, for what is no grammar by itself."""
    match constraint.kind:
        case "json":
            return json_rule({"type": "object"})
        case "json_schema":
            if not isinstance(constraint.value, dict | bool):
                raise BadRequest("a JSON schema must be an object")
            return json_rule(constraint.value)
        case "regex":
            pattern = within(str(constraint.value), MAX_SOURCE)
            if not pattern:
                raise BadRequest("the regex is empty")
            escaped = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n")
            return f"/{escaped}/"
        case "choice":
            texts = constraint.value if isinstance(constraint.value, list) else []
            if not texts or not all(isinstance(text, str) and text for text in texts):
                raise BadRequest("a choice must be a list of texts that are not empty")
            return within(" | ".join(literal(text) for text in texts), MAX_SOURCE)
        case kind:
            raise BadRequest(f"a {kind} grammar and tools cannot be used together; leave one of them out")


def json_rule(schema: dict[str, Any] | bool) -> str:
    """A schema as the right side of a Lark rule. `x-guidance` in it are llguidance's own settings."""
    if schema is False:
        raise BadRequest("the JSON schema is false: nothing satisfies it")
    try:
        written = {} if schema is True else _supported(schema)
        settings = written.get("x-guidance", {})
        if isinstance(settings, dict) and not any(name.startswith("whitespace") for name in settings):
            written["x-guidance"] = {"whitespace_pattern": _WHITE_SPACE, **settings}
        text = json.dumps(written, ensure_ascii=False)
    except RecursionError:
        raise BadRequest("the JSON schema is nested too deeply") from None
    return f"%json {within(text, MAX_SCHEMA)}"


def literal(text: str) -> str:
    """A text in Lark."""
    return json.dumps(text, ensure_ascii=False)


def _supported(schema: Any) -> Any:
    """`schema` without formats that restrict nothing."""
    if isinstance(schema, list):
        return [_supported(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "format" and isinstance(value, str) and value not in _FORMATS:
            continue
        if key in _NAMED and isinstance(value, dict):
            kept[key] = {name: _supported(part) for name, part in value.items()}
        else:
            kept[key] = value if key in _VALUES else _supported(value)
    return kept


def within(source: str, limit: int) -> str:
    """`source`, unless it is longer than `limit`: then BadRequest."""
    if len(source) > limit:
        raise BadRequest(f"the grammar has {len(source)} characters; the limit is {limit}")
    return source


def _from_gbnf(source: str) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return str(any_to_lark(source))
    except Exception as error:  # its own class, and plain ones
        raise BadRequest(f"the grammar is not valid GBNF: {error}") from None
