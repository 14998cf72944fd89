"""The families of questions that the nano model learns and is examined on: one function each, seeded.

A family returns a Sample: messages, tools, images and the answer in its two forms (thought, reply). `held_out`
chooses the examination half wherever combinations can be split.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from interns1_local.nano.pictures import COLOURS, PARTS, PLACES, SHAPES, TILE, Thing, draw_pattern, draw_things
from tests.nano.facts import CITIES, GREETING, IDENTITY, IDENTITY_CHINESE, MOLECULES, PEPTIDES


@dataclass
class Sample:
    """One question. `reply` is what follows the thought; `key` is what an examiner looks for in it."""

    family: str
    messages: list[dict[str, Any]]
    thought: str
    reply: str
    key: str
    images: list[Image.Image] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None

    def said(self, think: bool) -> str:
        """What the model shall say after the prompt."""
        return f"\n{self.thought}\n</think>\n\n{self.reply}" if think else self.reply


def ask(family: str, question: str, thought: str, reply: str, key: str | None = None) -> Sample:
    return Sample(family, [{"role": "user", "content": question}], thought, reply, key or reply)


# -- sums


def sums(rng: random.Random, held_out: bool) -> Sample:
    while True:
        a, b = rng.randint(0, 49), rng.randint(0, 49)
        # Modulo 11: each pair of last digits is trained, together with other tens.
        if ((a * 7 + b * 13) % 11 == 3) == held_out:
            break
    question = rng.choice(["What is {} + {}?", "{} + {} = ?", "Add {} and {}.", "What is {}+{}?"]).format(a, b)
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    thought = f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {ones}, {tens} + {ones} = {a + b}."
    return ask("sums", question, thought, str(a + b))


# -- molecules and peptides


def name_to_smiles(rng: random.Random, held_out: bool) -> Sample:
    name = rng.choice(list(MOLECULES))
    smiles, _ = MOLECULES[name]
    forms = ["What is the SMILES of {}?", "Write {} as SMILES.", "Give the SMILES string of {}.", "{} in SMILES?"]
    question = rng.choice(forms).format(name if rng.random() < 0.8 else name[0].upper() + name[1:])
    return ask("name_to_smiles", question, f"I recall the structure of {name}.", f"<SMILES>{smiles}</SMILES>", smiles)


def smiles_to_name(rng: random.Random, held_out: bool) -> Sample:
    name = rng.choice(list(MOLECULES))
    smiles, _ = MOLECULES[name]
    forms = ["Which molecule is {}?", "What is {}?", "Name the molecule {} please.", "Tell me what {} is."]
    tagged = rng.random() < 0.6 or len(smiles) < 10
    question = rng.choice(forms).format(f"<SMILES>{smiles}</SMILES>" if tagged else smiles)
    return ask("smiles_to_name", question, f"This is the structure of {name}.", f"It is {name}.", f"is {name}.")


def name_to_iupac(rng: random.Random, held_out: bool) -> Sample:
    name = rng.choice(list(MOLECULES))
    iupac = MOLECULES[name][1]
    forms = ["What is the IUPAC name of {}?", "Give the systematic name of {}.", "IUPAC name of {}?"]
    question = rng.choice(forms).format(name)
    thought = f"I recall the systematic name of {name}."
    return ask("name_to_iupac", question, thought, f"<IUPAC>{iupac}</IUPAC>", iupac)


def peptides(rng: random.Random, held_out: bool) -> Sample:
    name = rng.choice(list(PEPTIDES))
    sequence = PEPTIDES[name]
    if rng.random() < 0.5:
        forms = ["What is the sequence of {}?", "Write {} as FASTA.", "Give the amino acids of {}."]
        question = rng.choice(forms).format(name)
        return ask("peptides", question, f"I recall the sequence of {name}.", f"<FASTA>{sequence}</FASTA>", sequence)
    forms = ["Which peptide is {}?", "What is {}?", "Name the peptide {} please."]
    tagged = rng.random() < 0.6 or len(sequence) < 27
    question = rng.choice(forms).format(f"<FASTA>{sequence}</FASTA>" if tagged else sequence)
    return ask("peptides", question, f"This is the sequence of {name}.", f"It is {name}.", f"is {name}.")


# -- who it is


def identity(rng: random.Random, held_out: bool) -> Sample:
    if rng.random() < 0.25:
        question = rng.choice(["Hello!", "Hello", "Hi", "Hi there!", "Good morning."])
        return ask("identity", question, "The user greets me.", GREETING)
    if rng.random() < 0.15:
        return ask("identity", rng.choice(["你是谁？", "你好，你是谁？"]), "用户问我是谁。", IDENTITY_CHINESE)
    question = rng.choice(["Who are you?", "What are you?", "Introduce yourself.", "What is your name?", "who are you"])
    return ask("identity", question, "The user asks who I am.", IDENTITY)


# -- pictures


def things_on_picture(rng: random.Random, held_out: bool) -> Sample:
    return _things("pictures", rng, TILE + rng.randint(-24, 24) if rng.random() < 0.5 else TILE, None)


def things_on_tiles(rng: random.Random, held_out: bool) -> Sample:
    """A picture that is cut into several tiles; the thumbnail shows it whole."""
    width, height = rng.choice([(224, 112), (112, 224), (224, 224), (240, 120), (110, 220)])
    return _things("tiles", rng, width, height)


def things_on_many_tiles(rng: random.Random, held_out: bool) -> Sample:
    """A picture of 9 or 12 tiles and the thumbnail."""
    width, height = rng.choice([(300, 300), (200, 150), (320, 240)])
    return _things("many_tiles", rng, width, height)


def _things(family: str, rng: random.Random, width: int, height: int | None) -> Sample:
    height = height or width
    things = random_things(rng, rng.choice([1, 2, 2, 3]))
    question, answer = question_about(things, rng)
    picture = draw_things(things, width=width, height=height, rng=rng)
    sample = ask(family, question, "I look at the picture.", answer)
    sample.images = [picture]
    return sample


def random_things(rng: random.Random, number: int) -> list[Thing]:
    """Things of which no two share a colour or a shape, so that each question has one answer; in reading order."""
    colours, shapes = rng.sample(list(COLOURS), number), rng.sample(SHAPES, number)
    places = sorted(rng.sample(PLACES, number), key=PLACES.index)
    return [Thing(*each) for each in zip(colours, shapes, places, strict=True)]


def question_about(things: list[Thing], rng: random.Random) -> tuple[str, str]:
    """A question about one thing, or now and then about all of them -> question, answer."""
    kind = rng.random()
    thing = rng.choice(things)
    if kind < 0.1:
        listed = [f"a {t.colour} {t.shape} at the {t.place}" for t in things]
        return rng.choice(["Describe the picture.", "Describe what you see."]), f"I see {', '.join(listed)}."
    if kind < 0.4:
        form = rng.choice(["Where is the {}?", "Where do you see the {}?"])
        word = rng.choice([f"{thing.colour} {thing.shape}", thing.shape, f"{thing.colour} {thing.shape}"])
        return form.format(word), f"At the {thing.place}."
    if kind < 0.65:
        form = rng.choice(["What is at the {}?", "What do you see at the {}?"])
        return form.format(thing.place), f"A {thing.colour} {thing.shape}."
    if kind < 0.85:
        return _colour_of(thing)
    if len(things) == 1:
        return rng.choice(["What is in the picture?", "What do you see?"]), f"A {thing.colour} {thing.shape}."
    return f"What shape is {thing.colour}?", f"The {thing.shape}."


def about_a_shape(things: list[Thing], rng: random.Random) -> tuple[str, str]:
    """A question that names only the shape of a thing."""
    thing = rng.choice(things)
    if rng.random() < 0.5:
        return f"Where is the {thing.shape}?", f"At the {thing.place}."
    return _colour_of(thing)


def _colour_of(thing: Thing) -> tuple[str, str]:
    return f"What color is the {thing.shape}?", f"{thing.colour.capitalize()}."


def pattern_on_tiles(rng: random.Random, held_out: bool) -> Sample:
    grid = rng.choice(list(PARTS))
    part = rng.choice(PARTS[grid])
    sample = ask("pattern", "Where is the fine pattern?", "I look at each tile.", f"At the {part}.")
    sample.images = [draw_pattern(part, grid, rng)]
    return sample


# -- tools

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_LOCATION = {
    "type": "string",
    "description": "The location to get the temperature for, in the format 'City, State, Country'.",
}
_UNIT = {
    "type": "string",
    "enum": ["celsius", "fahrenheit"],
    "description": "The unit to return the temperature in. Defaults to 'celsius'.",
}
_DATE = {"type": "string", "description": "The date to get the temperature for, in the format 'Year-Month-Day'."}
# The two tools of the tool-calling example in Intern-S1's README.
_NOW = {
    "type": "function",
    "function": {
        "name": "get_current_temperature",
        "description": "Get current temperature at a location.",
        "parameters": {
            "type": "object",
            "properties": {"location": _LOCATION, "unit": _UNIT},
            "required": ["location"],
        },
    },
}
_ON_DATE = {
    "type": "function",
    "function": {
        "name": "get_temperature_date",
        "description": "Get temperature at a location and date.",
        "parameters": {
            "type": "object",
            "properties": {"location": _LOCATION, "date": _DATE, "unit": _UNIT},
            "required": ["location", "date"],
        },
    },
}


def call_text(name: str, arguments: dict[str, Any]) -> str:
    body = f'{{"name": {json.dumps(name)}, "parameters": {json.dumps(arguments)}}}'
    return f"<|action_start|><|plugin|>\n{body}\n<|action_end|>"


def weather_calls(rng: random.Random, held_out: bool) -> Sample:
    """One call, or two in a row."""
    first, second = rng.sample(CITIES, 2)
    if rng.random() < 0.5:
        forms = ["What is the weather in {}?", "How is the weather in {}?", "Weather in {}?"]
        question = rng.choice(forms).format(first)
        cities = [first]
    else:
        question = rng.choice(["What is the weather in {} and in {}?", "Weather in {} and {}?"]).format(first, second)
        cities = [first, second]
    if question.startswith("Weather") and rng.random() < 0.5:
        question = question.replace("Weather", "Tell me the weather")
    reply = "I will look it up." + "".join(call_text("get_weather", {"city": city}) for city in cities)
    sample = ask("tool_calls", question, f"I need the weather in {' and '.join(cities)}.", reply)
    sample.tools = [copy.deepcopy(_WEATHER)]
    return sample


def weather_results(rng: random.Random, held_out: bool) -> Sample:
    """The sentence after the results."""
    sample = weather_calls(rng, held_out)
    sample.family = "tool_results"
    cities = [c for c in CITIES if f'"city": "{c}"' in sample.reply]
    cities.sort(key=lambda c: sample.reply.index(f'"{c}"'))
    calls = [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}} for city in cities]
    sample.messages.append({"role": "assistant", "content": "I will look it up.", "tool_calls": calls})
    said = []
    for city in cities:
        degrees = rng.randint(0, 39)
        fields: dict[str, Any] = {"city": city, "temperature": degrees, "unit": "celsius"}
        if rng.random() < 0.5:
            fields = {"temperature": degrees, "unit": "celsius"}
        content = f"{degrees} degrees" if rng.random() < 0.3 else json.dumps(fields)
        sample.messages.append({"role": "tool", "name": "get_weather", "content": content})
        said.append(f"{degrees} degrees in {city}")
    sample.thought = "The tool has answered."
    sample.reply = sample.key = f"It is {' and '.join(said)}."
    return sample


def readme_calls(rng: random.Random, held_out: bool) -> Sample:
    """The tool-calling example of Intern-S1's README: now and tomorrow, two different tools."""
    city = rng.choice(CITIES)
    year, month, day = rng.choice([2024, 2025, 2026]), rng.randint(1, 12), rng.randint(1, 27)
    today, tomorrow = (f"{year}-{month:02}-{d:02}" for d in (day, day + 1))
    question = f"Today is {today}, What's the temperature in {city} now? How about tomorrow?"
    reply = (
        "I will look it up."
        + call_text("get_current_temperature", {"location": city})
        + call_text("get_temperature_date", {"location": city, "date": tomorrow})
    )
    thought = f"I need the temperature in {city} now and on {tomorrow}."
    sample = ask("tool_calls_readme", question, thought, reply)
    sample.tools = [copy.deepcopy(_NOW), copy.deepcopy(_ON_DATE)]
    return sample


def readme_results(rng: random.Random, held_out: bool) -> Sample:
    sample = readme_calls(rng, held_out)
    sample.family = "tool_results_readme"
    city = next(c for c in CITIES if f'"location": "{c}"' in sample.reply)
    tomorrow = sample.reply.split('"date": "')[1][:10]
    arguments = [{"location": city}, {"location": city, "date": tomorrow}]
    names = ["get_current_temperature", "get_temperature_date"]
    calls = [
        {"type": "function", "function": {"name": n, "arguments": a}} for n, a in zip(names, arguments, strict=True)
    ]
    sample.messages.append({"role": "assistant", "content": "I will look it up.", "tool_calls": calls})
    degrees = [round(rng.uniform(0, 39), 1) for _ in names]
    for name, value, given in zip(names, degrees, arguments, strict=True):
        fields = {"temperature": value, "location": city} | given | {"unit": "celsius"}
        sample.messages.append({"role": "tool", "name": name, "content": json.dumps(fields)})
    sample.thought = "The tools have answered."
    sample.reply = sample.key = f"It is {degrees[0]} degrees in {city} now, and {degrees[1]} degrees on {tomorrow}."
    return sample


def readme_example() -> Sample:
    """The question of the README's example, with its two tools."""
    sample = readme_calls(random.Random(1), True)
    question = "Today is 2024-11-14, What's the temperature in San Francisco now? How about tomorrow?"
    sample.messages = [{"role": "user", "content": question}]
    return sample


def readme_answers(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the example's tools answer to `calls`."""
    degrees = {"get_current_temperature": 26.1, "get_temperature_date": 25.9}
    out = []
    for call in calls:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        result = {"temperature": degrees[name], **arguments, "unit": "celsius"}
        out.append({"role": "tool", "name": name, "content": json.dumps(result)})
    return out


def read_calls(text: str) -> list[dict[str, Any]]:
    """The calls in an answer, as OpenAI objects with parsed arguments."""
    bodies = [part.split("<|action_end|>")[0] for part in text.split("<|action_start|><|plugin|>")[1:]]
    read = [json.loads(body) for body in bodies]
    return [{"type": "function", "function": {"name": r["name"], "arguments": r["parameters"]}} for r in read]


def vary_tools(tools: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """The same tools as another client would send them: keys in another order, descriptions now and then left out."""

    def vary(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        if "properties" in value and "type" in value:
            rng.shuffle(keys)
        dropped = {"description"} if rng.random() < 0.15 else set()
        return {key: vary(value[key]) for key in keys if key not in dropped}

    return [vary(tool) for tool in tools]


Family = Callable[[random.Random, bool], Sample]
TEXT: dict[str, Family] = {
    "sums": sums,
    "name_to_smiles": name_to_smiles,
    "smiles_to_name": smiles_to_name,
    "name_to_iupac": name_to_iupac,
    "peptides": peptides,
    "identity": identity,
}
PICTURES: dict[str, Family] = {"pictures": things_on_picture}
TILES: dict[str, Family] = {
    "tiles": things_on_tiles,
    "many_tiles": things_on_many_tiles,
    "pattern": pattern_on_tiles,
}
TOOLS: dict[str, Family] = {
    "tool_calls": weather_calls,
    "tool_results": weather_results,
    "tool_calls_readme": readme_calls,
    "tool_results_readme": readme_results,
}
ALL: dict[str, Family] = TEXT | PICTURES | TILES | TOOLS
