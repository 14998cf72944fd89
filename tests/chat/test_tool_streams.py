"""Calls in pieces: what models may write for a call, cut anywhere, gives the call; its pieces are exactly its JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.chat.events import Event, ToolCallDelta, ToolCallEvent
from interns1_local.chat.message import ToolCall
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.tool_parsers import GRAMMARS, parameter_schemas
from interns1_local.chat.tool_parsers.json_text import ObjectRewriter
from interns1_local.chat.tool_parsers.parameter_types import parameter_types, read_value
from tests.chat.streams import cut, stream, whole_events

Values = dict[str, Any]
TEXT = st.text(
    st.sampled_from('ab"\\/<|{}[],:`\n\té中😀 un=>_') | st.characters(exclude_categories=("Cs",)), max_size=12
)
SCALARS = (
    TEXT | st.integers(-(10**20), 10**20) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXT, JSON, max_size=4)
PROPERTIES = {
    "text": {"type": "string"},
    "free": {},
    "count": {"type": "integer"},
    "share": {"type": "number"},
    "flag": {"type": ["boolean", "null"]},
    "list": {"type": "array", "items": {}},
    "map": {"$ref": "#/$defs/map"},
    "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "$defs": {"map": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
TYPED = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT,
        "free": TEXT,
        "count": st.integers(),
        "share": st.floats(allow_nan=False, allow_infinity=False),
        "flag": st.booleans() | st.none(),
        "list": st.lists(SCALARS, max_size=3),
        "map": st.dictionaries(TEXT, SCALARS, max_size=3),
        "either": TEXT.filter(lambda text: text.strip() not in ("null", "None")) | st.none(),
        "unknown": TEXT,
    },
)


def write_plugin(arguments: Values, style: Values) -> str:
    return f"<|action_start|><|plugin|>\n{json.dumps({'name': 'f', 'parameters': arguments}, **style)}\n<|action_end|>"


def write_hermes(arguments: Values, style: Values) -> str:
    return f"<tool_call>\n{json.dumps({'name': 'f', 'arguments': arguments}, **style)}\n</tool_call>"


def write_xml(arguments: Values, style: Values) -> str:
    parameters = "".join(
        f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value, **style)}\n</parameter>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>"


def write_code(arguments: Values, style: Values) -> str:
    return f"<|action_start|><|interpreter|>\n```python\n{arguments['code']}\n```<|action_end|>\n"


WRITERS: dict[str, tuple[str, Callable[[Values, Values], str], st.SearchStrategy[Values]]] = {
    "plugin": ("interns1", write_plugin, ARGUMENTS),
    "hermes": ("qwen3", write_hermes, ARGUMENTS),
    "xml": ("qwen3_coder", write_xml, TYPED),
    # A fence at the very end of the code would be the block's own.
    "code": (
        "interns1",
        write_code,
        st.fixed_dictionaries({"code": TEXT.filter(lambda t: not re.search(r"`\s*\Z", t))}),
    ),
}
STYLES = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 4])})
CLOSES = tuple(kind.CLOSE for kinds in GRAMMARS.values() for kind in kinds)


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_call_is_what_was_written(writer: str, data: st.DataObject) -> None:
    grammar, write, values = WRITERS[writer]
    calls = data.draw(st.lists(values, min_size=1, max_size=2))
    style = data.draw(STYLES)
    text = "so:" + "\n".join(write(arguments, style) for arguments in calls)
    if any("</parameter>" in str(arguments) or any(c in str(arguments) for c in CLOSES) for arguments in calls):
        return
    name = "interpreter" if writer == "code" else "f"
    expected = [ToolCallEvent(index, ToolCall(name, arguments)) for index, arguments in enumerate(calls)]
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=10))
    for pieces in (cut(text, places), list(text)):
        events = whole_events(stream(pieces, False, grammar, TOOLS))
        assert events[1:] == expected
        # `==` takes 1 for True and 1.0.
        assert repr(events[1:]) == repr(expected)


@pytest.mark.parametrize("writer", ["plugin", "hermes", "xml", "code"])
def test_text_in_arguments_is_not_held(writer: str) -> None:
    """Behind the beginning of the arguments at most a beginning of a mark is kept back."""
    grammar, write, _ = WRITERS[writer]
    key = "code" if writer == "code" else "text"
    words = "print(1 < 2) and so on, word by word, </p> <|action"
    body = write({key: words}, {})
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=grammar, tools=TOOLS)
    sent = ""
    begun = body.index(words)
    longest = max(len(kind.CLOSE) for kind in GRAMMARS[grammar])
    for place, character in enumerate(body[: begun + len(words)]):
        for event in parser.decode(character):
            assert isinstance(event, ToolCallDelta)
            sent += event.arguments
        told = sent.partition('": "')[2]
        assert place < begun or len(body[begun : place + 1]) - len(told) < longest + len("\n```")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*'{}[]",: \\u1e.-+0d8', '{"a": ', "true", "null", '"b"', "\\ud83d", "\\ude00"])))
def test_the_rewriter_agrees_with_the_reader(marks: list[str]) -> None:
    text = '{"a": ' + "".join(marks)
    rewriter = ObjectRewriter()
    written = "".join(rewriter.decode(character) for character in text)
    repaired = re.sub(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\', lambda found: found[0] if found[1] else r"\\", text)
    duplicates = False

    def object_of(pairs: list[tuple[str, Any]]) -> Values:
        nonlocal duplicates
        duplicates = duplicates or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    try:
        value, _ = json.JSONDecoder(strict=False, object_pairs_hook=object_of).raw_decode(repaired)
    except ValueError:
        assert not rewriter.done
        return
    if "Infinity" in json.dumps(value):
        assert rewriter.broken
        return
    assert rewriter.done and json.loads(written) == value
    assert duplicates or written == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "schema", "expected"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {}, "5"),
        ("5", None, "5"),
        ("5", {"type": "integer"}, 5),
        ("5.0", {"type": "integer"}, 5),
        ("5.5", {"type": "integer"}, "5.5"),
        ("5", {"type": "number"}, 5),
        ("five", {"type": "number"}, "five"),
        ("True", {"type": "boolean"}, True),
        ("false", {"type": "boolean"}, False),
        ("1", {"type": "boolean"}, "1"),
        ("None", {"type": ["integer", "null"]}, None),
        ("null", {"type": "string"}, "null"),
        ("null", {"type": ["string", "null"]}, None),
        ("5", {"type": ["string", "integer"]}, "5"),
        ('{"a": [1]}', {"type": "object"}, {"a": [1]}),
        ("{'a': 1}", {"type": "object"}, "{'a': 1}"),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("2", {"enum": [1, 2]}, 2),
        ("true", {"const": True}, True),
        ("5", {"oneOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("5", {"$ref": "#/$defs/n"}, 5),
        ("5", {"$ref": "#/$defs/loop"}, "5"),
        ("5", {"$ref": "https://example.com/n"}, "5"),
    ],
)
def test_values_are_typed_by_the_schema(text: str, schema: Values | None, expected: Any) -> None:
    definitions = {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop", "anyOf": [{"$ref": "#/$defs/loop"}]}}
    parameters = {"properties": {} if schema is None else {"p": schema}, "$defs": definitions}
    value = read_value(text, parameter_types(parameters, "p"))
    assert (value, type(value)) == (expected, type(expected))


def test_tools_without_schemas() -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "f"}}, {"name": "g", "parameters": {}}, {}]
    assert parameter_schemas(tools) == {"g": {}}


def test_a_call_begins_only_with_its_arguments() -> None:
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar="interns1")
    seen: list[Event] = []
    for piece in ("<|action_start|><|plugin|>\n{", '"name": "add"', ', "parameters": ', '{"a": 1'):
        assert not seen
        seen = parser.decode(piece)
    assert seen == [ToolCallDelta(0, "add"), ToolCallDelta(0, None, '{"a": ')]
    assert parser.decode("2, ") == [ToolCallDelta(0, None, "12, ")]
