"""Stream parsers: the same events however the text is cut, no tag shown, nothing lost, nothing held without need."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.chat.events import Content, Event, Reasoning, ToolCallEvent
from interns1_local.chat.message import ToolCall
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.suffix import ambiguous_suffix
from interns1_local.chat.template import ChatTemplate
from interns1_local.chat.tool_parsers import GRAMMARS, detect
from tests.chat.streams import cut, stream, whole_events

A, CODE, Z = "<|action_start|><|plugin|>", "<|action_start|><|interpreter|>", "<|action_end|>"
HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": [1]}}\n</tool_call>'


def call(index: int, name: str, **arguments: object) -> ToolCallEvent:
    return ToolCallEvent(index, ToolCall(name, arguments))


def code(index: int, source: str) -> ToolCallEvent:
    return call(index, "interpreter", code=source)


def malformed(text: str) -> Content:
    return Content(text, malformed_call=True)


def xml(key: str, value: str) -> str:
    return f"<tool_call>\n<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>\n</tool_call>"


# (what the model wrote, whether the prompt opened the thought, grammar, events)
TABLE: list[tuple[str, bool, str | None, list[Event]]] = [
    ("Hello", False, None, [Content("Hello")]),
    ("<think>\na < b</think>\n\nHello", False, None, [Reasoning("a < b"), Content("Hello")]),
    ("\n a </thin b </think> Hello", True, None, [Reasoning("a </thin b "), Content("Hello")]),
    ("\n <think> x", False, None, [Reasoning("x")]),
    ("\n <thin", False, None, [Content("\n <thin")]),
    ("no <think>tags</think> here", False, None, [Content("no <think>tags</think> here")]),
    ("x</think></think>y", True, None, [Reasoning("x"), Content("</think>y")]),
    ("x</thi", True, None, [Reasoning("x</thi")]),
    ("</think>\n", True, None, []),
    ("  \n", True, None, []),
    ("  \n", False, None, [Content("  \n")]),
    ("1 < 2 <|action", False, "interns1", [Content("1 < 2 <|action")]),
    (f'{A}\n{{"name": "f", "parameters": {{"a": 1}}}}\n{Z}', False, "interns1", [call(0, "f", a=1)]),
    (f'hi {A}{{"name": "f", "arguments": {{}}}}{Z}', False, "interns1", [Content("hi "), call(0, "f")]),
    (f'{A}{{"name": "f"}}{Z}\n\n{A}{{"name": "g"}}{Z}\n', False, "interns1", [call(0, "f"), call(1, "g")]),
    (f'{A}{{"name": "f"}}{Z}\nso', False, "interns1", [call(0, "f"), Content("\nso")]),
    (f'{A}{{"name": "f"}}{Z} <|act', False, "interns1", [call(0, "f"), Content(" <|act")]),
    (f'{A}{{"name": "f"}}\n', False, "interns1", [call(0, "f")]),
    (f'{A}{{"name": "f"}}\n<|action_', False, "interns1", [call(0, "f")]),
    (f'{A}{{"name": "f", "par', False, "interns1", [malformed(f'{A}{{"name": "f", "par')]),
    (f"a{A}nonsense{Z}b", False, "interns1", [Content("a"), malformed(f"{A}nonsense{Z}"), Content("b")]),
    (f'{A}[1]{Z}{A}{{"name": "f"}}{Z}', False, "interns1", [malformed(f"{A}[1]{Z}"), call(0, "f")]),
    (f'{A}{{"name": 1}}{Z}', False, "interns1", [malformed(f'{A}{{"name": 1}}{Z}')]),
    # Its pieces were told before it broke, so its index is used.
    (
        f'{A}{{"name": "f", "parameters": {{"a": 1,}}}}{Z}{A}{{"name": "g"}}{Z}',
        False,
        "interns1",
        [malformed(f'{A}{{"name": "f", "parameters": {{"a": 1,}}}}{Z}'), call(1, "g")],
    ),
    (f'plan {A}no</think>\n{A}{{"name": "f"}}{Z}', True, "interns1", [Reasoning(f"plan {A}no"), call(0, "f")]),
    (f'still {A}{{"name": "f"}}{Z}', True, "interns1", [Reasoning(f'still {A}{{"name": "f"}}{Z}')]),
    (f"{CODE}1", False, "interns1", [malformed(f"{CODE}1")]),
    (f"{CODE}\nprint(1)\n{Z}", False, "interns1", [malformed(f"{CODE}\nprint(1)\n{Z}")]),
    (f"So:\n\n{CODE}\n```python\na = `1`\n\n```{Z}\n", False, "interns1", [Content("So:\n\n"), code(0, "a = `1`\n")]),
    (f'{CODE}```python\n```\n{Z}{A}{{"name": "f"}}{Z}', False, "interns1", [code(0, ""), call(1, "f")]),
    (f'{CODE}\n```\n"\n```\nx\n```\n"\n```\n', False, "interns1", [code(0, '"\n```\nx\n```\n"')]),
    (f"{CODE}\n```python\nhalf", False, "interns1", [malformed(f"{CODE}\n```python\nhalf")]),
    (f"<think>t</think>{HERMES}", False, "qwen3", [Reasoning("t"), call(0, "f", x=[1])]),
    (f"t</think>\n\n{HERMES}\n{HERMES}", True, "qwen3", [Reasoning("t"), call(0, "f", x=[1]), call(1, "f", x=[1])]),
    ("<tool_call>{}</tool_call>", False, "qwen3", [malformed("<tool_call>{}</tool_call>")]),
    ("<tool_call><function=f></function></tool_call>", False, "qwen3_coder", [call(0, "f")]),
    ("<tool_call>\n<function=f>\n</function>\n", False, "qwen3_coder", [call(0, "f")]),
    ("<tool_call><function=f></tool_call>", False, "qwen3_coder", [malformed("<tool_call><function=f></tool_call>")]),
    (
        xml("a", "1") + "\n" + xml("b", " x\n") + "!",
        False,
        "qwen3_coder",
        [call(0, "f", a="1"), call(1, "f", b=" x\n"), Content("!")],
    ),
    (
        xml("a", "1</parameter>\n<parameter=a>\n2"),
        False,
        "qwen3_coder",
        [malformed(xml("a", "1</parameter>\n<parameter=a>\n2"))],
    ),
]


def parse(pieces: list[str], starts_in_reasoning: bool, grammar: str | None) -> list[Event]:
    return whole_events(stream(pieces, starts_in_reasoning, grammar))


@pytest.mark.parametrize(("text", "inside", "grammar", "expected"), TABLE)
def test_every_two_way_split(text: str, inside: bool, grammar: str | None, expected: list[Event]) -> None:
    for place in range(len(text) + 1):
        assert parse([text[:place], text[place:]], inside, grammar) == expected
    assert parse(list(text), inside, grammar) == expected


MARKS = ["<think>", "</think>", A, CODE, Z, "<tool_call>", "</tool_call>", "<|action_start|>", "```", "```python\n"]
MARKS += ["<function=f>", "</function>", "<parameter=a>", "</parameter>"]
WORDS = ['{"name": "f", "parameters": {"a": "b"}}', '{"name": "f"}', "{", "<", "</", "<|", " ", "\n", "word", "é"]
WORDS += ['{"name": "f", "parameters": {"a": ', "[1, ", '"', "\\", "\\ud83d", "\\ude0", "1.50", "true", "}", "]", ","]
FRAGMENTS = st.sampled_from([*MARKS, *WORDS])


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(FRAGMENTS, max_size=16), st.data())
def test_random_text_and_splits(fragments: list[str], data: st.DataObject) -> None:
    text = "".join(fragments)
    inside = data.draw(st.booleans())
    grammar = data.draw(st.sampled_from([None, *GRAMMARS]))
    whole = parse([text], inside, grammar)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8))
    assert parse(cut(text, places), inside, grammar) == whole
    # Nothing is lost: what is missing from the events is tags, calls and white space.
    shown = "".join(event.text for event in whole if isinstance(event, Content | Reasoning))
    calls = sum(isinstance(event, ToolCallEvent) for event in whole)
    if not calls:
        kept = text
        if not inside and text.lstrip().startswith("<think>"):
            kept = kept.lstrip().removeprefix("<think>")
        if any(isinstance(event, Reasoning) for event in whole) or inside or kept != text:
            kept = kept.replace("</think>", "", 1)
        assert "".join(shown.split()) == "".join(kept.split())


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("text", [text for text, *_ in TABLE])
def test_only_what_may_become_a_mark_is_held(text: str, grammar: str) -> None:
    opens = [kind.OPEN for kind in GRAMMARS[grammar]]
    parser = ResponseParser(reasoning=True, starts_in_reasoning=False, tool_grammar=grammar)
    # Behind this word neither a thought nor white space after a call can be pending.
    shown = parser.decode("word")
    for place, character in enumerate(text):
        if any(mark in text[: place + 1] for mark in opens):
            break
        shown.extend(parser.decode(character))
        given_out = "".join(event.text for event in shown if isinstance(event, Content))
        held = f"word{text[: place + 1]}"[len(given_out) :]
        assert any(mark.startswith(held) for mark in opens)


def test_of_a_thought_only_what_may_end_it_is_held() -> None:
    parser = ResponseParser(reasoning=True, starts_in_reasoning=True, tool_grammar="interns1")
    text = f"a < b, </p>, </thin k {A} and so on </thi"
    shown = ""
    for place, character in enumerate(text):
        shown += "".join(event.text for event in parser.decode(character) if isinstance(event, Reasoning))
        assert "</think>".startswith(text[len(shown) : place + 1])


def test_without_reasoning_or_grammar_text_passes() -> None:
    text = f"<think>a</think>{A}b{Z}"
    parser = ResponseParser(reasoning=False, starts_in_reasoning=False, tool_grammar=None)
    assert [event for character in text for event in parser.decode(character)] == [Content(c) for c in text]
    assert parser.flush() == []


def test_in_reasoning() -> None:
    parser = ResponseParser(reasoning=True, starts_in_reasoning=True, tool_grammar=None)
    assert parser.in_reasoning
    parser.decode("a</think>b")
    assert not parser.in_reasoning


def test_arguments_keep_their_order_and_types() -> None:
    arguments = {"z": None, "a": [True, 1.5, {"k": "v"}], "é": "中"}
    text = json.dumps({"name": "f", "parameters": arguments}, ensure_ascii=False, indent=4)
    (event,) = parse([f"{A}\n{text}\n{Z}"], False, "interns1")
    assert isinstance(event, ToolCallEvent)
    assert list(event.call.arguments.items()) == list(arguments.items())


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        (r'{"name": "f", "parameters": {"s": "F/C=C\F"}}', {"s": "F/C=C\\F"}),
        (r'{"name": "f", "parameters": {"s": "C\\C=C\C(\[O-])"}}', {"s": "C\\C=C\\C(\\[O-])"}),
        (r'{"name": "f", "parameters": {"s": "a\nb\u00e9\/\"\C"}}', {"s": 'a\nbé/"\\C'}),
        (r'{"name": "f", "parameters": {"s": "\u12"}}', {"s": "\\u12"}),
        (r'{"name": "f", "parameters": {"s": "\ud83d\ude00\ud83d"}}', {"s": "😀\ud83d"}),
        ('{"name": "f", "parameters": {"s": "line\nbreak"}}', {"s": "line\nbreak"}),
        ('{"name": "f", "parameters": "{\\"a\\": 1}"}', {"a": 1}),
        ('{"name": "f", "parameters": null}', {}),
        ('{"name": "f", "parameters": {"a": 1}, "arguments": {"a": 2}}', {"a": 1}),
        ('{"arguments": {"a": 2}, "name": "f", "parameters": {"a": 1}}', {"a": 2}),
        ('{"name": "f", "parameters": {"a": 1, "a": 2}}', None),
        ('{"name": "f", "parameters": {}, "parameters": {}}', None),
        ('{"name": "f", "parameters": [1]}', None),
        ('{"name": "f", "parameters": "a"}', None),
        ('{"name": "f", "parameters": {"a": NaN}}', None),
        ('{"name": "f", "parameters": {"a": 1e999}}', None),
        ('{"name": "f", "parameters": {"a": 1,}}', None),
        (r'{"name": "f", "parameters": {"s": "C\"}}', None),
        ("{'name': 'f'}", None),
        ("[" * 100_000, None),
        ('{"name": "f", "parameters": {"a": ' + "[" * 100_000, None),
        ("", None),
    ],
)
def test_repair_only_where_the_meaning_is_certain(body: str, arguments: dict[str, object] | None) -> None:
    expected: list[Event] = [malformed(f"{A}{body}{Z}")] if arguments is None else [call(0, "f", **arguments)]
    assert parse([f"{A}{body}{Z}"], False, "interns1") == expected


def test_a_grammar_is_known_by_its_template() -> None:
    table = [
        (ChatTemplate.default_interns1().source, "interns1"),
        ("{{ '<tool_call>' }}", "qwen3"),
        ("{{ '<tool_call><function=f>' }}", "qwen3_coder"),
        ("{{ message.content }}", None),
    ]
    assert [detect(source) for source, _ in table] == [name for _, name in table]
    assert all(name in GRAMMARS for _, name in table if name)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="<|a", max_size=12), st.text(alphabet="<|a", min_size=1, max_size=6))
def test_ambiguous_suffix_is_the_longest(text: str, mark: str) -> None:
    longest = max(n for n in range(min(len(text), len(mark) - 1) + 1) if mark.startswith(text[len(text) - n :]))
    assert ambiguous_suffix(text, mark) == longest
