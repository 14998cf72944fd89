"""Calls as grammars: what a random model writes under one is read back by the parser of its style, and validates."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from interns1_local.chat.events import Content, ToolCallEvent
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.engine.grammar import GrammarCompiler
from interns1_local.engine.guide import Guide, ThoughtRules
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.constraints import Constraint, answer_grammar
from interns1_local.generation.tool_grammars import CALL_STYLES, calls_grammar, opening_mark, strict_calls
from tests.random_walk import PIECES, compiler, guided_walk, marks, text_of, walk

TOKENS = [piece.decode("latin-1") for piece in PIECES]
JSON_STYLES = ["interns1", "qwen3"]


def tool(name: str, parameters: dict[str, Any] | None, **function: Any) -> dict[str, Any]:
    given = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **function}}


ADD = {
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/digit"},
        "b": {"type": "array", "items": {"$ref": "#/$defs/digit"}, "maxItems": 2},
    },
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
}
SAY = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "tone": {"enum": ["soft", "loud"]}, "loud": {"type": "boolean"}},
    "required": ["text", "tone"],
    "additionalProperties": False,
}
TOOLS = [tool("add", ADD), tool('s"ay', SAY), tool("now", None)]
SCHEMAS = {"add": ADD, 's"ay': SAY, "now": {"type": "object", "maxProperties": 0}}


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return compiler()


def read(style: str, text: bytes, tools: list[dict[str, Any]]) -> tuple[list[ToolCallEvent], str]:
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=style, tools=tools)
    events = [*parser.decode(text.decode("utf-8", "replace")), *parser.flush()]
    calls = [event for event in events if isinstance(event, ToolCallEvent)]
    return calls, "".join(event.text for event in events if isinstance(event, Content))


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("style", CALL_STYLES)
def test_what_is_written_is_read(grammars: GrammarCompiler, style: str, spelled: bool) -> None:
    noise, seen = np.random.default_rng(3), set()
    grammar = calls_grammar(style, TOOLS, [] if spelled else TOKENS)
    for _ in range(40):
        text, is_whole = walk(grammars.matcher(grammar), noise)
        if not is_whole:
            continue
        calls, rest = read(style, text, TOOLS)
        assert calls and not rest.strip(), text
        for event in calls:
            jsonschema.validate(event.call.arguments, SCHEMAS[event.call.name])
            seen.add(event.call.name)
    # A random text without quotes does not happen to end with its tag.
    assert seen == set(SCHEMAS) - ({'s"ay'} if style == "qwen3_coder" else set())


@pytest.mark.parametrize("style", CALL_STYLES)
def test_a_named_tool_and_one_call_only(grammars: GrammarCompiler, style: str) -> None:
    noise = np.random.default_rng(4)
    grammar = calls_grammar(style, TOOLS, TOKENS, name="add", parallel=False)
    for _ in range(8):
        text, is_whole = walk(grammars.matcher(grammar), noise)
        assert is_whole
        calls, _ = read(style, text, TOOLS)
        assert [event.call.name for event in calls] == ["add"]


@pytest.mark.parametrize(
    ("style", "block"),
    [
        ("interns1", '<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1, "b": []}}\n<|action_end|>'),
        ("interns1", '<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1}}<|action_end|>'),
        (
            "interns1",
            '<|action_start|><|plugin|>\n{\n  "name": "add",\n  "parameters": {\n    "a": 1\n  }\n}\n<|action_end|>',
        ),
        (
            "qwen3",
            '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        ),
        (
            "qwen3_coder",
            "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n[2, 3]\n</parameter>\n"
            "</function>\n</tool_call>",
        ),
        (
            "qwen3_coder",
            '<tool_call>\n<function=s"ay>\n<parameter=text>\n{<b>\n"two" lines}\n</parameter>\n<parameter=tone>\n'
            "soft\n</parameter>\n</function>\n</tool_call>",
        ),
    ],
)
def test_what_the_models_were_trained_to_write_is_allowed(grammars: GrammarCompiler, style: str, block: str) -> None:
    matcher = grammars.matcher(calls_grammar(style, TOOLS, []))
    for byte in block.encode():
        assert matcher.allowed()[byte], f"{bytes([byte])!r} in {block!r}"
        matcher.consume(byte)
    assert matcher.accepting


def test_calls_or_an_answer(grammars: GrammarCompiler) -> None:
    noise, kinds = np.random.default_rng(5), set()
    schema = {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": False}
    grammar = calls_grammar("interns1", TOOLS[:1], TOKENS, or_answer=Constraint("json_schema", schema))
    for _ in range(16):
        text, is_whole = walk(grammars.matcher(grammar), noise)
        calls, rest = read("interns1", text, TOOLS)
        kinds.add(bool(calls))
        if is_whole and not calls:
            assert json.loads(rest) == {"x": 1}
    assert kinds == {True, False}


@pytest.mark.parametrize("style", JSON_STYLES)
def test_strict_tools_hold_blocks_and_leave_texts_free(grammars: GrammarCompiler, style: str) -> None:
    tools = [tool("add", ADD, strict=True), tool("any", SAY)]
    held = strict_calls(style, tools, TOKENS)
    assert held is not None
    mark, grammar = held
    noise, calls = np.random.default_rng(6), 0
    for _ in range(60):
        guide = Guide(ThoughtRules(), marks(), grammars.matcher(grammar), after=mark)
        for piece in CALL_STYLES[style].opening:
            guide.accept(TOKENS.index(piece))
        ids, _ = guided_walk(guide, noise, 160)
        text = mark.encode() + text_of(ids)
        found, _ = read(style, text[: text.find(CALL_STYLES[style].closing[0].encode()) + 20], tools)
        for event in found[:1]:
            calls += 1
            jsonschema.validate(event.call.arguments, ADD if event.call.name == "add" else {"type": "object"})
            assert event.call.name in ("add", "any")
    assert calls >= 20
    assert strict_calls(style, TOOLS, TOKENS) is None


def test_what_cannot_be_enforced() -> None:
    for style in (None, "pythonic"):
        with pytest.raises(Unsupported, match="no grammar here"):
            calls_grammar(style, TOOLS, TOKENS)
        assert opening_mark(style) == ""
    with pytest.raises(BadRequest, match='names "sub"'):
        calls_grammar("qwen3", TOOLS, TOKENS, name="sub")
    with pytest.raises(BadRequest, match="the limit is"):
        calls_grammar("qwen3", [tool(f"t{i}", ADD) for i in range(1000)], TOKENS)
    with pytest.raises(Unsupported, match='"maxLength" of the parameter "a"'):
        calls_grammar(
            "qwen3_coder",
            [tool("t", {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}})],
            TOKENS,
        )
    with pytest.raises(BadRequest, match="cannot be used together"):
        calls_grammar("qwen3", TOOLS, TOKENS, or_answer=Constraint("lark", 'start: "x"'))


def test_an_unsupported_keyword_of_a_tool_is_named(grammars: GrammarCompiler) -> None:
    odd = tool("t", {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}})
    for grammar in (calls_grammar("interns1", [odd], TOKENS), answer_grammar(Constraint("json_schema", {"not": {}}))):
        with pytest.raises(BadRequest, match=r"uniqueItems|not"):
            grammars.matcher(grammar)
