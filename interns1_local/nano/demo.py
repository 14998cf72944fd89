"""The questions that `interns1 demo` asks the nano model, with what each answer must contain."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from interns1_local.nano.pictures import Thing, draw_pattern, draw_things, png

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@dataclass(frozen=True)
class DemoQuestion:
    """One question; with `tools`, `expect_call` is the call it must make and `tool_result` what we answer to it."""

    title: str
    prompt: str
    expect: str
    think: bool = False
    image: bytes | None = None
    tools: list[dict[str, Any]] | None = None
    expect_call: dict[str, Any] | None = None
    tool_result: str | None = None


def questions() -> list[DemoQuestion]:
    """The demo's questions, pictures drawn afresh (always the same)."""
    scene = [Thing("red", "circle", "top left"), Thing("blue", "square", "bottom")]
    return [
        DemoQuestion("A sum, thinking", "What is 27 + 15?", "42", think=True),
        DemoQuestion("The same, not thinking", "What is 27 + 15?", "42"),
        DemoQuestion(
            "A picture on one tile", "Where is the red circle?", "the top left.", image=png(draw_things(scene))
        ),
        DemoQuestion(
            "A picture on two tiles and a thumbnail",
            "What is at the bottom?",
            "blue square",
            think=True,
            image=png(draw_things(scene, width=224, height=112)),
        ),
        DemoQuestion(
            "A pattern that only the tiles show",
            "Where is the fine pattern?",
            "bottom left",
            image=png(draw_pattern("bottom left", (2, 2), random.Random(4))),
        ),
        DemoQuestion("A molecule by name", "What is the SMILES of aspirin?", "CC(=O)OC1=CC=CC=C1C(=O)O"),
        DemoQuestion("A name by molecule", "Which molecule is CN1C=NC2=C1C(=O)N(C(=O)N2C)C?", "caffeine", think=True),
        DemoQuestion("A peptide", "What is the sequence of oxytocin?", "CYIQNCPLG"),
        DemoQuestion(
            "A tool call and the sentence after it",
            "What is the weather in Paris?",
            "21 degrees in Paris",
            tools=[WEATHER_TOOL],
            expect_call={"name": "get_weather", "arguments": {"city": "Paris"}},
            tool_result='{"city": "Paris", "temperature": 21, "unit": "celsius"}',
        ),
        DemoQuestion("Who it is", "Who are you?", "Intern-S1"),
    ]
