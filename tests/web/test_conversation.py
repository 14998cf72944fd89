"""Conversations on the page: thinking, stop, branches, tools, schemas, what stays and what is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.server.fake_runner import FakeBackend
from tests.web.conftest import Open, ask, copied, none_left, see


def answers(page: Any) -> list[str]:
    page.wait_for_selector("body:not(.running)")
    return [each.strip() for each in page.locator(".message.assistant .text").all_inner_texts()]


def test_thinking_markdown_and_figures(open_page: Open, backend: FakeBackend) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    backend.enqueue("I add ", "them.</think>\n\n", "**42**, or `0x2a`:\n\n```python\nprint(", "42)\n```\n", "\n$x^2$")
    ask(page, "What is 27 + 15?")
    page.wait_for_selector("math")
    thought = page.locator(".thought")
    assert "2 tokens" in thought.locator("summary").inner_text()
    assert not thought.locator(".thought-text").is_visible()
    thought.locator("summary").click()
    assert thought.locator(".thought-text").inner_text() == "I add them."
    text = page.locator(".message.assistant .text")
    assert text.locator("strong").inner_text() == "42"
    assert text.locator("pre").inner_text().strip() == "print(42)"
    text.get_by_role("button", name="Copy").click()
    copied(page, "print(42)\n")
    assert "5 tokens" in page.locator(".stats").last.inner_text()
    assert backend.last_text.endswith("<|im_start|>user\nWhat is 27 + 15?<|im_end|>\n<|im_start|>assistant\n<think>")


def test_stop_keeps_what_is_there(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    backend.enqueue("x</think>Half of ", "<hang>")
    ask(page, "Go")
    see(page, "Half of")
    page.keyboard.press("Escape")
    see(page, "Stopped", ".stats")
    assert answers(page) == ["Half of"]
    assert backend.ended == 1
    backend.enqueue("y</think>Whole")
    page.get_by_role("button", name="Answer again").click()
    see(page, "Whole")
    assert page.locator(".branches").inner_text() == "2/2"


def test_branches_stay_after_a_reload(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    for answer in ("one", "two", "three"):
        backend.enqueue(f"x</think>{answer}")
    ask(page, "First")
    see(page, "one")
    ask(page, "Second")
    see(page, "two")
    page.get_by_role("button", name="Edit and ask again").first.click()
    page.locator(".edit textarea").fill("Changed")
    page.locator(".edit textarea").press("Enter")
    see(page, "three")
    assert "Second" not in backend.last_text and "First" not in backend.last_text
    assert answers(page) == ["three"]
    page.get_by_role("button", name="Previous version").click()
    assert answers(page) == ["one", "two"]
    page.wait_for_timeout(100)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    see(page, "two")
    assert answers(page) == ["one", "two"]
    assert page.locator(".branches").first.inner_text() == "1/2"


def test_export_and_import(open_page: Open, backend: FakeBackend, tmp_path: Path) -> None:
    page = open_page()
    backend.enqueue("x</think>the answer")
    ask(page, "The question")
    see(page, "the answer")
    page.wait_for_selector("body:not(.running)")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export this conversation").click()
    download.value.save_as(tmp_path / "chat.json")
    exported = json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))
    assert exported["format"] == "interns1-conversations"
    # What a file of others may hold beside it does not come along.
    more = {"role": "assistant", "html": "<script>", "calls": [5], "thinkSeconds": 75}
    exported["conversations"][0]["nodes"]["m2"] |= more
    (tmp_path / "chat.json").write_text(json.dumps(exported), encoding="utf-8")
    other = open_page()
    with other.expect_file_chooser() as chooser:
        other.get_by_role("button", name="Import conversations").click()
    chooser.value.set_files(tmp_path / "chat.json")
    see(other, "the answer")
    assert other.locator(".thought summary").inner_text() == "Thought for 75 s · 1 tokens"
    assert other.locator("#chats .chat").inner_text() == "The question"
    (tmp_path / "bad.json").write_text('{"format": "other"}')
    with other.expect_file_chooser() as chooser:
        other.get_by_role("button", name="Import conversations").click()
    chooser.value.set_files(tmp_path / "bad.json")
    other.get_by_text("Not imported: the file holds no conversation of this page").wait_for()
    other.on("dialog", lambda asked: asked.accept())
    other.locator("#chats li").first.hover()
    other.get_by_role("button", name="Delete The question").click()
    other.wait_for_selector(".welcome")
    none_left(other, "#chats li")


def test_what_is_deleted_while_it_is_answered_stays_deleted(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    page.on("dialog", lambda asked: asked.accept())
    backend.enqueue("x</think>Half of ", "<hang>")
    ask(page, "Go")
    see(page, "Half of")
    page.locator("#chats li").first.hover()
    page.get_by_role("button", name="Delete Go").click()
    page.wait_for_selector(".welcome")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator("#chats li").count() == 0


CALL = '<|action_start|><|plugin|>{"name": "%s", "parameters": %s}<|action_end|>'


def test_tools_by_the_page_and_by_hand(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("calculate").check()
    tool = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}
    page.get_by_label("Your own tools (JSON)").last.fill(json.dumps([tool]))
    backend.enqueue("x</think>", CALL % ("calculate", '{"expression": "(2 + 3) * 4 ^ 2"}'))
    backend.enqueue("x</think>It is 80.")
    ask(page, "Calculate")
    see(page, "It is 80.")
    assert '{"result":80}' in page.locator(".call.result").inner_text()
    assert '{"result":80}' in backend.last_text
    backend.enqueue("x</think>", CALL % ("weigh", '{"what": "gold"}'))
    backend.enqueue("x</think>Three grams.")
    ask(page, "Weigh it")
    page.get_by_label("Result of weigh").fill('{"grams": 3}')
    page.get_by_role("button", name="Send the results").click()
    see(page, "Three grams.")
    assert '{"grams": 3}' in backend.last_text
    none_left(page, ".call-answer")


SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "maximum": 50}, "unit": {"enum": ["g"]}},
    "required": ["sum"],
    "additionalProperties": False,
    "dependentRequired": {},
}


def test_the_schema_check(open_page: Open) -> None:
    page = open_page()
    cases: list[tuple[Any, Any, int]] = [
        ({"sum": 3}, SCHEMA, 0),
        ({"sum": 3.5, "unit": "kg", "more": 1}, SCHEMA, 3),
        ({}, SCHEMA, 1),
        ([1, "a"], {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}, "maxItems": 1}, 1),
        ("ab", {"anyOf": [{"minLength": 3}, {"const": "ab"}], "not": {"pattern": "c"}}, 0),
        ({"a": {"a": {"b": 1}}}, {"properties": {"a": {"$ref": "#"}}, "additionalProperties": False}, 1),
        (1, {"oneOf": [{"type": "integer"}, {"type": "number"}]}, 1),
    ]
    for value, schema, expected in cases:
        check = "async ([value, schema]) => (await import('/web/app/schema_check.js')).check(value, schema)"
        found = page.evaluate(check, [value, schema])
        assert len(found["errors"]) == expected, (value, schema, found)
        assert found["unchecked"] == (["dependentRequired"] if schema is SCHEMA else [])


def test_structured_answers_are_judged(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    field = page.get_by_label("Structured answer (JSON Schema)").last
    field.fill("{")
    assert "Not JSON" in page.locator("#problem-schema").inner_text()
    field.fill(json.dumps({"properties": {"sum": {"type": "integer"}}}))
    for answer, verdict in (('{"sum": 42}', "Fits the schema"), ('{"sum": "x"}', "$.sum"), ("No.", "Not JSON")):
        backend.enqueue("x</think>" + answer)
        ask(page, "Sum")
        see(page, verdict, ".verdict")
