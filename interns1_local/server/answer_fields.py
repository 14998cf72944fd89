"""Fields that say what an answer must be: formats, grammars, tool choice, the length of thoughts and prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from interns1_local.errors import BadRequest, InternS1Error, Unsupported
from interns1_local.generation import Constraint
from interns1_local.server.json_body import Fields

_GRAMMAR_KINDS = ("regex", "lark", "gbnf")
_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


def ollama_format(fields: Fields) -> Constraint | None:
    """`format` as Ollama has it; `grammar: {"type": "regex"|"lark"|"gbnf", "value": ...}` is ours."""
    value, grammar = fields.get("format"), fields.child("grammar", "Grammar")
    if grammar is not None:
        if value not in (None, ""):
            raise BadRequest("format and grammar cannot be used together; leave one of them out")
        return _grammar(grammar.text("type"), grammar.text("value"))
    if value is None or value == "":
        return None
    if value == "json":
        return Constraint("json")
    if isinstance(value, dict):
        return Constraint("json_schema", value)
    raise InternS1Error(f'invalid format: {json.dumps(value)}; expected "json" or a valid JSON Schema object')


def openai_format(fields: Fields) -> Constraint | None:
    """`response_format`, and what vLLM (`structured_outputs`, `guided_*`) and llama-server (`grammar`) add."""
    found = [constraint for constraint in (_response_format(fields), *_extensions(fields)) if constraint is not None]
    if len(found) > 1:
        raise BadRequest("the request constrains its answer in more than one way; leave all but one out")
    return found[0] if found else None


def text_format(fields: Fields) -> Constraint | None:
    """`text.format` of /v1/responses."""
    text = fields.child("text", "openai.ResponsesText")
    wanted = text.child("format", "openai.ResponsesFormat") if text else None
    if wanted is None:
        return None
    return _openai_kind(wanted.text("type"), wanted)


def tool_choice(fields: Fields, tools: Sequence[Any]) -> dict[str, Any]:
    """`tool_choice` and `parallel_tool_calls` as fields of a ChatRequest."""
    value = fields.get("tool_choice")
    given: dict[str, Any] = {"tools": tools, "parallel_tool_calls": fields.flag("parallel_tool_calls") is not False}
    if value in (None, "", "auto"):
        return given
    if value == "none":
        return given | {"tool_choice": "none"}
    if value in ("required", "any"):
        return given | {"tool_choice": "required"}
    if isinstance(value, dict):
        function = value.get("function")
        kind = value.get("type")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        if kind in ("function", "tool") and isinstance(name, str) and name:
            return given | {"tool_choice": "required", "tool_name": name}
        if kind in ("auto", "none", "any", "required"):
            parallel = given["parallel_tool_calls"] and value.get("disable_parallel_tool_use") is not True
            return tool_choice(Fields({"tool_choice": kind, "parallel_tool_calls": parallel}, "ToolChoice"), tools)
    raise BadRequest(
        f'invalid tool_choice {json.dumps(value)}; expected "auto", "none", "required" or '
        '{"type": "function", "function": {"name": ...}}'
    )


def budgets(fields: Fields) -> dict[str, Any]:
    """`think_budget` (also `thinking_budget`) and `max_answer_tokens`, in tokens.

    Some clients send what Python's `openai` unpacks, `extra_body`, as it is.
    """
    holders = [fields, *(Fields(fields.object(name) or {}, name) for name in ("chat_template_kwargs", "extra_body"))]
    names = ((given, name) for given in holders for name in ("think_budget", "thinking_budget"))
    budget = next((found for given, name in names if (found := given.integer(name)) is not None), None)
    return {"think_budget": budget, "max_answer_tokens": fields.integer("max_answer_tokens")}


def truncates(fields: Fields, default: bool) -> bool:
    """Whether old messages may go: `truncate`, or OpenAI's `truncation: "auto"`."""
    flag = fields.flag("truncate")
    if flag is not None:
        return flag
    text = fields.text("truncation")
    if text not in ("", "auto", "disabled"):
        raise BadRequest(f'truncation must be "auto" or "disabled"; it is {json.dumps(text)}')
    return text == "auto" if text else default


def options_of(fields: Fields) -> dict[str, Any]:
    """`options`, and `shift`, which is a field of its own in Ollama and an option here."""
    shift = fields.flag("shift")
    return (fields.object("options") or {}) | ({} if shift is None else {"shift": shift})


def _response_format(fields: Fields) -> Constraint | None:
    wanted = fields.child("response_format", "openai.ResponseFormat")
    if wanted is None:
        return None
    return _openai_kind(wanted.text("type"), wanted.child("json_schema", "openai.JsonSchema") or wanted)


def _openai_kind(kind: str, holder: Fields) -> Constraint | None:
    match kind:
        case "" | "text":
            return None
        case "json_object":
            # llama-server and Together take a schema here as well.
            schema = holder.object("schema")
            return Constraint("json") if schema is None else Constraint("json_schema", schema)
        case "regex":  # Together's
            return Constraint("regex", holder.text("pattern"))
        case "grammar":  # Fireworks'
            return _either_grammar(holder.text("grammar"))
        case "json_schema":
            schema = holder.object("schema")
            if schema is None:
                raise BadRequest("a format of type json_schema needs a schema")
            return Constraint("json_schema", schema)
    raise Unsupported(f'a format of type "{kind}" is not known; use text, json_object, json_schema, regex or grammar')


def _extensions(fields: Fields) -> list[Constraint | None]:
    outputs = fields.child("structured_outputs", "StructuredOutputs") or Fields({}, "StructuredOutputs")
    found: list[Constraint | None] = []
    for holder, prefix in ((outputs, ""), (fields, "guided_")):
        if (schema := holder.get(f"{prefix}json")) is not None:
            found.append(Constraint("json_schema", _schema(schema)))
        if (pattern := holder.text(f"{prefix}regex")) != "":
            found.append(Constraint("regex", pattern))
        if (choices := holder.array(f"{prefix}choice")) is not None:
            found.append(Constraint("choice", choices))
        if (grammar := holder.text(f"{prefix}grammar")) != "":
            found.append(_either_grammar(grammar))
    if outputs.flag("json_object") or fields.flag("guided_json_object"):
        found.append(Constraint("json"))
    if (schema := fields.object("json_schema")) is not None:
        found.append(Constraint("json_schema", schema))
    if (value := fields.get("grammar")) not in (None, ""):
        if isinstance(value, dict):
            holder = Fields(value, "Grammar")
            found.append(_grammar(holder.text("type"), holder.text("value")))
        else:
            found.append(_either_grammar(fields.text("grammar")))
    return found


def _schema(value: Any) -> Any:
    """A schema, also as a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise BadRequest("guided_json is not valid JSON") from None


def _either_grammar(source: str) -> Constraint:
    """GBNF writes its rules as `name ::=`; everything else is Lark."""
    return Constraint("gbnf" if _GBNF_RULE.search(source) else "lark", source)


def _grammar(kind: str, value: str) -> Constraint:
    if kind not in _GRAMMAR_KINDS:
        raise BadRequest(f'a grammar\'s type must be one of {", ".join(_GRAMMAR_KINDS)}; it is "{kind}"')
    if not value:
        raise BadRequest("the grammar is empty")
    return Constraint(kind, value)  # type: ignore[arg-type]
