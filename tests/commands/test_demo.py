"""The demo's parts: conversion once, and questions whose answers are checked."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from interns1_local.commands import demo
from interns1_local.commands.client import Client
from interns1_local.commands.demo_questions import ask_all
from interns1_local.nano.demo import WEATHER_TOOL, DemoQuestion, questions
from tests.commands.fake_server import FakeServer, chunks
from tests.tiny import tiny_interns1

CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}
WEATHER = DemoQuestion(
    "A tool", "Weather?", "21 degrees", tools=[WEATHER_TOOL], expect_call=CALL, tool_result='{"temperature": 21}'
)


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=100)


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.base_url) as client:
        yield client


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def calling(call: dict[str, Any]) -> list[dict[str, Any]]:
    return chunks({"tool_calls": [{"id": "call_1", "function": {**call, "index": 0}}]})


def test_right_and_wrong_answers(fake: FakeServer, client: Client, console: Console, tmp_path: Path) -> None:
    fake.answers = [
        chunks({"thinking": "7 + 5 = 12"}, {"content": "It is 42."}),
        chunks({"content": "41"}),
        chunks({"content": "</think>42"}),
    ]
    asked = [DemoQuestion(f"Sum {number}", "27 + 15?", "42", think=number == 1) for number in (1, 2, 3)]
    assert ask_all(client, "nano", asked, tmp_path, console) == ["Sum 2", "Sum 3"]
    assert [request["think"] for request in fake.asked("/api/chat")] == [True, False, False]
    for part in ("> 27 + 15?", "(thinks) 7 + 5 = 12", "It is 42.", "20 tokens, 40 tokens/s"):
        assert part in printed(console)


def test_a_tool_call_and_its_result(fake: FakeServer, client: Client, console: Console, tmp_path: Path) -> None:
    fake.answers = [calling(CALL), chunks({"content": "21 degrees."})]
    assert ask_all(client, "nano", [WEATHER], tmp_path, console) == []
    first, second = fake.asked("/api/chat")
    assert first["tools"] == [WEATHER_TOOL]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    assert second["messages"][2] == {
        "role": "tool",
        "tool_name": "get_weather",
        "content": '{"temperature": 21}',
        "tool_call_id": "call_1",
    }
    assert '(calls) get_weather({"city": "Paris"})' in printed(console)


def test_a_wrong_call_is_wrong(fake: FakeServer, client: Client, console: Console, tmp_path: Path) -> None:
    fake.answers = [calling({**CALL, "arguments": {"city": "Rome"}})]
    assert ask_all(client, "nano", [WEATHER], tmp_path, console) == ["A tool"]


def test_pictures_are_sent_and_kept(fake: FakeServer, client: Client, console: Console, tmp_path: Path) -> None:
    [picture, *_] = [question for question in questions() if question.image]
    fake.answers = [chunks({"content": picture.expect})]
    assert ask_all(client, "nano", [picture], tmp_path / "pictures", console) == []
    [message] = fake.asked("/api/chat")[0]["messages"]
    assert len(message["images"]) == 1
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_the_checkpoint_is_converted_once(console: Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "checkpoint"
    tiny_interns1(checkpoint)
    files = demo.convert_once(checkpoint, tmp_path, console)
    assert list(files) == ["nano-Q8_0.gguf", "nano-mmproj-Q8_0.gguf"]
    written = {path: path.stat().st_mtime_ns for path in files.values()}
    demo.convert_once(checkpoint, tmp_path, console)
    assert {path: path.stat().st_mtime_ns for path in files.values()} == written
    assert printed(console).count("in an earlier run") == 1
    (checkpoint / "config.json").touch()
    demo.convert_once(checkpoint, tmp_path, console)
    assert {path: path.stat().st_mtime_ns for path in files.values()} != written


def test_the_model_is_created_from_the_files(
    fake: FakeServer, client: Client, console: Console, tmp_path: Path
) -> None:
    (tmp_path / "nano.gguf").write_text("model")
    demo.create(client, {"nano.gguf": tmp_path / "nano.gguf"}, console)
    assert list(fake.asked("/api/create")[0]["files"]) == ["nano.gguf"]
    assert "nano:latest, 9.9 MB: completion, thinking, tools, vision" in printed(console)
