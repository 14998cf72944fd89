"""The questions of the demo: asked over HTTP, printed with their answers and speeds, and checked."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interns1_local.commands.answer import Answer
from interns1_local.commands.client import Client

if TYPE_CHECKING:
    from rich.console import Console

    from interns1_local.nano.demo import DemoQuestion


# A model that went wrong on the road would babble until its context is full.
_OPTIONS = {"temperature": 0, "num_predict": 256}
_SHOWN_CHARACTERS = 600


def ask_all(
    client: Client, model: str, questions: Sequence[DemoQuestion], pictures: Path, console: Console
) -> list[str]:
    """Ask every question and print it; the titles of those with a wrong answer come back."""
    wrong = []
    for question in questions:
        if not _ask(client, model, question, pictures, console):
            wrong.append(question.title)
    return wrong


def _ask(client: Client, model: str, question: DemoQuestion, pictures: Path, console: Console) -> bool:
    console.print(f"\n   {question.title}", style="bold")
    message: dict[str, Any] = {"role": "user", "content": question.prompt}
    if question.image:
        message["images"] = [base64.b64encode(question.image).decode("ascii")]
        _print(console, _save_picture(question, pictures), style="dim")
    _print(console, f"> {question.prompt}", style="cyan")
    request = {"model": model, "think": question.think, "options": _OPTIONS, "stream": True}
    if question.tools:
        request["tools"] = question.tools
    answer = _answer(client, {**request, "messages": [message]}, console)
    expected = [question.expect_call] if question.expect_call else []
    if expected and _calls(answer) != expected:
        return _print_verdict(console, False, f"the call {json.dumps(expected[0])}")
    if expected and question.tool_result is not None:
        _print(console, f"(the tool answers) {question.tool_result}", style="yellow")
        messages = [message, answer.message(), *_results(answer, question.tool_result)]
        answer = _answer(client, {**request, "messages": messages}, console)
    # A tag of the thought in the answer means that the parser let it through.
    right = question.expect in answer.text and "think>" not in answer.text
    return _print_verdict(console, right, question.expect)


def _calls(answer: Answer) -> list[dict[str, Any]]:
    functions = [call.get("function", {}) for call in answer.tool_calls]
    return [{"name": each.get("name"), "arguments": each.get("arguments")} for each in functions]


def _results(answer: Answer, result: str) -> list[dict[str, Any]]:
    """The tool's message for each call."""
    return [
        {"role": "tool", "tool_name": call["function"]["name"], "content": result}
        | ({"tool_call_id": call["id"]} if call.get("id") else {})
        for call in answer.tool_calls
    ]


def _print_verdict(console: Console, right: bool, expected: str) -> bool:
    marks = ("✓", "✗") if "utf" in (sys.stdout.encoding or "").lower() else ("right:", "wrong:")
    if right:
        _print(console, f"{marks[0]} {expected}", style="green")
    else:
        _print(console, f"{marks[1]} expected: {expected}", style="bold red")
    return right


def _answer(client: Client, request: dict[str, Any], console: Console) -> Answer:
    answer = Answer()
    for chunk in client.stream("/api/chat", request):
        answer.add(chunk)
    if answer.thinking:
        _print(console, f"(thinks) {answer.thinking.strip()}", style="dim")
    if answer.text.strip():
        _print(console, answer.text.strip())
    for call in answer.tool_calls:
        function = call["function"]
        arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        _print(console, f"(calls) {function['name']}({arguments})", style="yellow")
    count, speed = answer.figures.get("eval_count", 0), answer.tokens_per_second
    _print(console, f"{count} tokens, {speed:.0f} tokens/s", style="dim")
    return answer


def _save_picture(question: DemoQuestion, folder: Path) -> str:
    """Kept, so that a person can see what the model saw."""
    import io
    import re

    from PIL import Image

    assert question.image is not None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "-", question.title.lower()).strip("-") + ".png")
    with Image.open(io.BytesIO(question.image)) as picture:
        width, height = picture.size
    path.write_bytes(question.image)
    return f"a picture of {width} x {height} pixels: {path}"


def _print(console: Console, text: str, style: str = "") -> None:
    from rich.padding import Padding
    from rich.text import Text

    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " ..."
    console.print(Padding(Text(shown, style=style, overflow="fold"), (0, 0, 0, 5), expand=False))
