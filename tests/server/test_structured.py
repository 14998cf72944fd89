"""Formats and tool choice through every door: what the runner is told, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.fake_runner import FakeBackend

USER = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
STRICT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
OURS = [{"name": "add", "input_schema": SCHEMA}]
BLANKS = {"x-guidance": {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,96}"}}
ANY = f"start: %json {json.dumps({'type': 'object'} | BLANKS)}\n"
HELD = f"start: %json {json.dumps(SCHEMA | BLANKS)}\n"
CHAT, GENERATE, V1, RESPONSES = "/api/chat", "/api/generate", "/v1/chat/completions", "/v1/responses"


def grammar_of(client: TestClient, backend: FakeBackend, path: str, **fields: Any) -> str | None:
    body: dict[str, Any] = {"model": "tiny", "stream": False, "max_tokens": 9, **fields}
    body |= {GENERATE: {"prompt": "Hi"}, RESPONSES: {"input": "Hi"}}.get(path, {"messages": USER})
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return backend.last.grammar


@pytest.mark.parametrize(
    ("path", "fields", "grammar"),
    [
        (CHAT, {}, None),
        (CHAT, {"format": "json"}, ANY),
        (CHAT, {"format": SCHEMA}, HELD),
        (CHAT, {"format": ""}, None),
        (CHAT, {"grammar": {"type": "regex", "value": "a/b\\/c"}}, "start: /a\\/b\\/c/\n"),
        (GENERATE, {"format": "json"}, ANY),
        (GENERATE, {"format": SCHEMA, "raw": True}, HELD),
        (V1, {"response_format": {"type": "text"}}, None),
        (V1, {"response_format": {"type": "json_object"}}, ANY),
        (V1, {"response_format": STRICT}, HELD),
        (V1, {"response_format": {"type": "json_object", "schema": SCHEMA}}, HELD),
        (V1, {"response_format": {"type": "regex", "pattern": "a+"}}, "start: /a+/\n"),
        (V1, {"response_format": {"type": "grammar", "grammar": 'start: "x"'}}, 'start: "x"'),
        (V1, {"guided_json": SCHEMA}, HELD),
        (V1, {"guided_json": '{"type": "object"}'}, ANY),
        (V1, {"guided_regex": "[0-9]+"}, "start: /[0-9]+/\n"),
        (V1, {"guided_choice": ["yes", 'say "no"']}, 'start: "yes" | "say \\"no\\""\n'),
        (V1, {"structured_outputs": {"choice": ["a"]}}, 'start: "a"\n'),
        (V1, {"structured_outputs": {"grammar": 'start: "x"'}}, 'start: "x"'),
        (V1, {"grammar": 'start: "x"'}, 'start: "x"'),
        (V1, {"grammar": 'start: "x ::= y"'}, 'start: "x ::= y"'),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}, HELD),
        (RESPONSES, {"text": {"format": {"type": "text"}}}, None),
    ],
)
def test_formats(
    client: TestClient, backend: FakeBackend, path: str, fields: dict[str, Any], grammar: str | None
) -> None:
    assert grammar_of(client, backend, path, **fields) == grammar


def test_gbnf(client: TestClient, backend: FakeBackend) -> None:
    assert '"x"' in str(grammar_of(client, backend, V1, grammar='root ::= "x" [0-9]'))


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (V1, {"response_format": {"type": "json_schema"}}, "needs a schema"),
        (V1, {"response_format": {"type": "xml"}}, 'a format of type "xml" is not known'),
        (CHAT, {"format": "json", "grammar": {"type": "regex", "value": "a"}}, "cannot be used together"),
        (CHAT, {"grammar": {"type": "xml", "value": "a"}}, "must be one of regex, lark, gbnf"),
        (CHAT, {"grammar": {"type": "regex", "value": ""}}, "the grammar is empty"),
        (V1, {"guided_json": False}, "nothing satisfies it"),
        (V1, {"guided_regex": "a", "guided_choice": ["b"]}, "in more than one way"),
        (V1, {"guided_choice": []}, "a list of texts"),
        (V1, {"guided_json": "{"}, "not valid JSON"),
        (V1, {"grammar": "root ::= nowhere"}, "not valid GBNF"),
        (V1, {"guided_regex": "a" * (2 << 20)}, "the limit is"),
        (V1, {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}}, 'names "sub"'),
        (V1, {"tools": TOOLS, "tool_choice": 5}, "invalid tool_choice"),
        (V1, {"tool_choice": "required"}, "the request has no tools"),
        (V1, {"tools": TOOLS, "guided_grammar": 'start: "x"'}, "a lark grammar and tools cannot be used together"),
    ],
)
def test_refused(client: TestClient, backend: FakeBackend, path: str, fields: dict[str, Any], message: str) -> None:
    response = client.post(path, json={"model": "tiny", "messages": USER, "stream": False, **fields})
    assert response.status_code == 400 and message in response.text.replace('\\"', '"')
    assert not backend.requests, "nothing was computed"


REQUIRED = {"tools": TOOLS, "tool_choice": "required"}
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    ("path", "fields", "names", "parallel"),
    [
        (V1, REQUIRED, ["add", "now"], True),
        (V1, REQUIRED | {"parallel_tool_calls": False}, ["add", "now"], False),
        (V1, {"tools": TOOLS, "tool_choice": NAMED}, ["add"], True),
        (V1, {"tools": TOOLS, "tool_choice": {"type": "function", "name": "now"}}, ["now"], True),
        (CHAT, REQUIRED, ["add", "now"], True),
        (
            "/v1/messages",
            {"tools": OURS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            ["add"],
            False,
        ),
        ("/v1/messages", {"tools": OURS, "tool_choice": {"type": "tool", "name": "add"}}, ["add"], True),
    ],
)
def test_required_calls(
    client: TestClient, backend: FakeBackend, path: str, fields: dict[str, Any], names: list[str], parallel: bool
) -> None:
    grammar = grammar_of(client, backend, path, **fields)
    assert grammar is not None and grammar.startswith("start: calls\n")
    assert [name for name in ("add", "now") if json.dumps(f'"{name}"') in grammar] == names
    assert ("call*" in grammar) == parallel
    assert json.dumps('"parameters"') in grammar
    # These marks are no tokens of the tiny vocabulary, so they are spelled.
    assert 'call: "<|action_start|>" "<|plugin|>" body "<|action_end|>"' in grammar


def test_tools_or_an_answer(client: TestClient, backend: FakeBackend) -> None:
    grammar = grammar_of(client, backend, V1, tools=TOOLS, response_format={"type": "json_object"})
    assert grammar is not None and grammar.startswith("start: calls | answer\n") and 'answer: %json {"type"' in grammar


@pytest.mark.parametrize("choice", ["auto", None, "none", {"type": "auto"}])
def test_free_choice_has_no_grammar(client: TestClient, backend: FakeBackend, choice: Any) -> None:
    assert grammar_of(client, backend, V1, tools=TOOLS, tool_choice=choice) is None
    assert backend.last_text.startswith("<|action_start|>"), "the tools are shown"
    assert backend.last.forbidden == ("<|action_start|>" if choice == "none" else "")


def test_a_model_that_may_not_call_does_not(client: TestClient, backend: FakeBackend) -> None:
    """What looks like a call is text then, and a format holds all the same."""
    call = '<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1}}\n<|action_end|>'
    backend.enqueue("</think>", call)
    body = {"model": "tiny", "messages": USER, "tools": TOOLS, "tool_choice": "none", "guided_json": SCHEMA}
    choice = client.post(V1, json=body).json()["choices"][0]
    assert choice["message"]["content"] == call and not choice["message"].get("tool_calls")
    assert choice["finish_reason"] == "stop"
    assert backend.last.grammar == HELD


def test_strict_tools_hold_what_follows_the_mark(client: TestClient, backend: FakeBackend) -> None:
    strict = {"type": "function", "function": {"name": "add", "strict": True, "parameters": SCHEMA}}
    grammar = grammar_of(client, backend, V1, tools=[strict, TOOLS[1]])
    assert backend.last.grammar_after == "<|action_start|><|plugin|>"
    assert grammar is not None and grammar.startswith("start: body ") and '"integer"' in grammar


def test_one_call_is_enough(client: TestClient, backend: FakeBackend) -> None:
    call = '<|action_start|><|plugin|>\n{"name": "add", "parameters": {"a": 1}}\n<|action_end|>'
    for parallel in (True, False):
        backend.enqueue("</think>", call, call)
        body = {"model": "tiny", "messages": USER, "tools": TOOLS, "parallel_tool_calls": parallel}
        message = client.post(V1, json=body).json()["choices"][0]
        assert len(message["message"]["tool_calls"]) == (2 if parallel else 1)
        assert message["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("path", "fields", "rules"),
    [
        (CHAT, {}, (True, False, None, None)),
        (CHAT, {"think": False}, (False, False, None, None)),
        (CHAT, {"think_budget": 5, "max_answer_tokens": 7}, (True, False, 5, 7)),
        (GENERATE, {"think_budget": 0}, (True, False, 0, None)),
        (CHAT, {"options": {"think_budget": 9}}, (True, False, 9, None)),
        (CHAT, {"think_budget": -1}, (True, False, None, None)),
        (V1, {"thinking_budget": 6}, (True, False, 6, None)),
        (V1, {"chat_template_kwargs": {"thinking_budget": 8}}, (True, False, 8, None)),
        (RESPONSES, {"thinking_budget": 4}, (True, False, 4, None)),
        ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, (True, False, 1024, None)),
    ],
)
def test_budgets(
    client: TestClient, backend: FakeBackend, path: str, fields: dict[str, Any], rules: tuple[Any, ...]
) -> None:
    grammar_of(client, backend, path, **fields)
    thought = backend.last.thought
    assert (thought.starts_inside, thought.may_open, thought.budget, thought.max_answer_tokens) == rules
