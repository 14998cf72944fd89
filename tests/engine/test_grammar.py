"""Grammars without a model: what they allow, what is refused, what cannot end or hold the process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest

from interns1_local.engine.grammar import GrammarCompiler, apply_mask
from interns1_local.errors import BadRequest
from interns1_local.generation.constraints import Constraint, answer_grammar
from tests.random_walk import END, IDS, MARK_IDS, PIECES, compiler, walk


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return compiler()


def allowed_after(grammars: GrammarCompiler, constraint: Constraint, text: bytes) -> set[bytes]:
    matcher = grammars.matcher(answer_grammar(constraint))
    for byte in text:
        matcher.consume(byte)
    return {PIECES[token] for token in np.flatnonzero(matcher.allowed())}


def accepts(grammars: GrammarCompiler, constraint: Constraint, text: str) -> bool:
    matcher = grammars.matcher(answer_grammar(constraint))
    for byte in text.encode():
        if not matcher.allowed()[byte]:
            return False
        matcher.consume(byte)
    return matcher.accepting


def test_every_way_to_cut_a_text_is_allowed(grammars: GrammarCompiler) -> None:
    """Also where only one text is possible: which tokens write it is the model's choice."""
    abc = Constraint("lark", 'start: "abc" /x+/')
    assert allowed_after(grammars, abc, b"") == {b"a", b"ab", b"abc"}
    assert allowed_after(grammars, abc, b"ab") == {b"c"}
    assert allowed_after(grammars, abc, b"abcx") == {b"x", b"<|end|>"}


def test_marks_are_no_text(grammars: GrammarCompiler) -> None:
    anything = allowed_after(grammars, Constraint("regex", r"(.|\n)*"), b"")
    marks = {PIECES[token] for token in MARK_IDS if token != END}
    assert not anything & marks
    assert {b"<think", b"<|end|>", b"\n\n", b"a"} <= anything
    named = Constraint("lark", f'start: "a" <[{IDS[b"<|plugin|>"]}]> "b"')
    assert allowed_after(grammars, named, b"a") == {b"<|plugin|>"}


def test_tokens_of_the_same_text_are_allowed_alike() -> None:
    """A science vocabulary has its own tokens for texts that the others have as well."""
    pieces = [bytes([byte]) for byte in range(256)] + [b"C", b"CC", b"C", b"", b"<end>"]
    mask = GrammarCompiler(pieces, [260], [260]).matcher('start: "CCC"\n').allowed()
    assert np.flatnonzero(mask).tolist() == [67, 256, 257, 258]


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (
            Constraint("json"),
            ["{}", '{"a": [1, null, "é\\n"]}', '{\n  "a" : {}\n}'],
            ["[]", "1", '{"a"}', '{"a": 1,}', ""],
        ),
        (Constraint("json_schema", True), ["1", '"x"', "[{}]"], ["x"]),
        (
            Constraint("json_schema", {"enum": [1, "a", None, {"x": [1]}]}),
            ["1", '"a"', "null", '{"x": [1]}'],
            ["2", '"b"'],
        ),
        (Constraint("json_schema", {"type": ["string", "null"]}), ["null", '"x"'], ["1"]),
        (
            Constraint("json_schema", {"type": "number", "minimum": 0.5, "maximum": 1.5}),
            ["0.5", "1.25"],
            ["0.4", "2", "-1"],
        ),
        (Constraint("json_schema", {"type": "string", "format": "date"}), ['"2024-02-29"'], ['"tomorrow"']),
        (Constraint("json_schema", {"type": "integer", "format": "int32"}), ["5"], ['"5"']),
        (
            Constraint("json_schema", {"properties": {"format": {"const": "x"}}, "required": ["format"]}),
            ['{"format": "x"}'],
            ['{"format": "y"}', "{}"],
        ),
        (Constraint("json_schema", {"const": {"format": "odd"}}), ['{"format": "odd"}'], ["{}"]),
        (
            Constraint(
                "json_schema",
                {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {"kind": {"const": kind}, kind: {"type": "integer"}},
                            "required": ["kind", kind],
                        }
                        for kind in ("a", "b")
                    ]
                },
            ),
            ['{"kind": "a", "a": 1}'],
            ['{"kind": "a", "b": 1}'],
        ),
        (
            Constraint(
                "json_schema", {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}}
            ),
            ["[[], [[]]]"],
            ["[1]"],
        ),
        (Constraint("regex", "a/b\\/c|\\d{2}"), ["a/b/c", "42"], ["a/b", "4", "423"]),
        (Constraint("regex", "x\ny"), ["x\ny"], ["x y"]),
        (Constraint("choice", ["yes", 'no "way"', "a\\b\nc"]), ["yes", 'no "way"', "a\\b\nc"], ["no", "yes!"]),
        (Constraint("lark", 'start: "q" ("r" | "s")+ "t"'), ["qrst"], ["qt", "q"]),
        (
            Constraint("gbnf", 'root ::= "a" digit{2} ("," ws root)?\ndigit ::= [0-9]\nws ::= " "*'),
            ["a12,  a34"],
            ["a1", "a12,"],
        ),
    ],
    ids=lambda value: f"{value.kind} {value.value}"[:40] if isinstance(value, Constraint) else "",
)
def test_what_is_allowed(grammars: GrammarCompiler, constraint: Constraint, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not accepts(grammars, constraint, text)] == []
    assert [text for text in bad if accepts(grammars, constraint, text)] == []


def test_blanks_between_words_end_and_blanks_in_texts_do_not(grammars: GrammarCompiler) -> None:
    for constraint in (Constraint("json"), Constraint("json_schema", {"type": "object", "properties": {"a": {}}})):
        matcher = grammars.matcher(answer_grammar(constraint))
        matcher.consume(IDS[b"{"])
        count = 0
        while matcher.allowed()[IDS[b" "]]:
            matcher.consume(IDS[b" "])
            count += 1
            assert count < 200
        assert count >= 40, "as deep as people indent"
        assert matcher.allowed()[IDS[b'"']]
    assert accepts(grammars, Constraint("json"), '{"a": "' + " " * 400 + '"}')
    assert accepts(grammars, Constraint("regex", " {300}"), " " * 300)


def random_schema(choose: random.Random, depth: int = 3) -> dict[str, Any]:
    kind = choose.choice(["object", "array", "any"] if depth else ["text"]) if choose.random() < 0.6 else "plain"
    if kind == "object":
        names = choose.sample(["a", "b c", "name", "é", "ab"], choose.randint(0, 4))
        schema: dict[str, Any] = {"type": "object", "properties": {n: random_schema(choose, depth - 1) for n in names}}
        schema["required"] = [name for name in names if choose.random() < 0.6]
        schema["additionalProperties"] = choose.choice([False, False, True, {"type": "integer"}])
        return schema
    if kind == "array":
        low = choose.randint(0, 2)
        return {"type": "array", "items": random_schema(choose, depth - 1), "minItems": low, "maxItems": low + 2}
    if kind == "any":
        return {"anyOf": [random_schema(choose, depth - 1) for _ in range(2)]}
    return choose.choice([
        {"type": "string", "minLength": choose.randint(0, 2), "maxLength": choose.randint(2, 6)},
        {"type": "string", "pattern": choose.choice(["^[a-c]+$", "^x?[0-9]{3}$", "(ab|é){2}"])},
        {"type": "integer", "minimum": choose.randint(-50, 0), "maximum": choose.randint(0, 500)},
        {"type": "number", "exclusiveMinimum": -1.5, "maximum": choose.choice([0, 2.25, 1e3])},
        {"type": choose.choice(["boolean", "null"])},
        {"enum": choose.sample(["a", 1, None, True, [1, "b"], {"k": "v"}, 2.5], 3)},
        {"const": choose.choice(["CC(=O)O", 7, {"x": []}])},
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_chosen_validates(grammars: GrammarCompiler, seed: int) -> None:
    choose, noise = random.Random(seed), np.random.default_rng(seed)
    ended = 0
    for _ in range(6):
        schema = random_schema(choose)
        grammar = answer_grammar(Constraint("json_schema", schema))
        for _ in range(3):
            text, is_whole = walk(grammars.matcher(grammar), noise)
            if is_whole:
                ended += 1
                jsonschema.validate(json.loads(text), schema)
    assert ended >= 12


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        *((Constraint("json_schema", {key: value}), f'"{key}"') for key, value in (
            ("not", {"type": "string"}), ("if", {}), ("uniqueItems", True), ("contains", {}), ("propertyNames", {}),
            ("unevaluatedProperties", False), ("dependentRequired", {"a": ["b"]}),
        )),
        (Constraint("json_schema", {"type": "object", "properties": {"a": {"items": {"not": {}}}}}), '"not"'),
        (Constraint("json_schema", {"oneOf": [{"minimum": 1}, {"maximum": 5}]}), "oneOf"),
        (Constraint("json_schema", {"type": "string", "format": "uri-reference"}), "uri-reference"),
        (Constraint("json_schema", {"type": "string", "pattern": "(?=a)a"}), "look-around"),
        (Constraint("json_schema", {"type": "text"}), "Invalid type: text"),
        (Constraint("json_schema", {"$ref": "http://127.0.0.1:9/x.json"}), "127.0.0.1"),
        (Constraint("json_schema", {"$ref": "#"}), "nothing satisfies it"),
        (Constraint("json_schema", {"x-guidance": 5}), "x-guidance|invalid type"),
        (Constraint("json_schema", False), "nothing satisfies it"),
        (Constraint("json_schema", "text"), "must be an object"),
        (Constraint("regex", "("), "unclosed group"),
        (Constraint("regex", r"(a)\1"), "backreferences"),
        (Constraint("regex", ""), "empty"),
        (Constraint("lark", "start: missing"), "missing"),
        (Constraint("lark", ""), "Empty grammar|cannot be used"),
        (Constraint("lark", 'start: "a'), "1.10."),
        (Constraint("gbnf", "root ::= missing"), "missing"),
        (Constraint("gbnf", 'x ::= "a"'), "root"),
        (Constraint("gbnf", 'root ::= "a'), "GBNF"),
        (Constraint("choice", []), "not empty"),
        (Constraint("choice", ["a", 1]), "not empty"),
        (Constraint("choice", ["a" * 40_000]), "the limit is"),
    ],
    ids=lambda value: f"{value.kind} {value.value}"[:40] if isinstance(value, Constraint) else "",
)  # fmt: skip
def test_what_is_refused_says_why(grammars: GrammarCompiler, constraint: Constraint, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        grammars.matcher(answer_grammar(constraint))
    assert len(caught.value.message) < 600
    assert "llguidance" not in caught.value.message


# Each line is compiled and walked as a worker does it. That is a process of its own: what is tested for is its end.
HOSTILE = """
import json, sys, threading, time
import numpy as np
from interns1_local.errors import BadRequest
from interns1_local.generation.constraints import Constraint, MAX_SCHEMA, MAX_SOURCE, answer_grammar
from interns1_local.runners.compile_queue import CompileQueue
from tests.random_walk import compiler, walk

def chain(link, last, size):
    count = size // (len(json.dumps(link("#/$defs/0000"))) + 12)
    names = [f"{i:x}" for i in range(count + 1)]
    links = {name: link(f"#/$defs/{names[i + 1]}") for i, name in enumerate(names[:-1])}
    return {"$ref": "#/$defs/0", "$defs": {**links, names[-1]: last}}

def rules(form, size):
    count = size // (len(form) + 12)
    return "start: a0\\n" + "".join("a%x: %s\\n" % (i, form % (i + 1)) for i in range(count)) + 'a%x: "x"\\n' % count

N = MAX_SCHEMA - 1000
cases = [
    ("json_schema", chain(lambda r: {"$ref": r}, {"type": "integer"}, N)),
    ("json_schema", chain(lambda r: {"properties": {"a": {"$ref": r}}}, {"type": "integer"}, N)),
    ("json_schema", chain(lambda r: {"anyOf": [{"$ref": r}, {"type": "null"}]}, {"type": "integer"}, N)),
    ("json_schema", {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i+1}"}] * 2} for i in range(40)}
                     | {"d40": {"type": "integer"}}, "$ref": "#/$defs/d0"}),
    ("json_schema", {"type": "array", "items": {"type": "integer"}, "minItems": 10**5, "maxItems": 10**6}),
    ("json_schema", {"type": "string", "pattern": "^(a?){5000}a{5000}$"}),
    ("json_schema", {"type": "integer", "multipleOf": 987654321}),
    ("json_schema", {"enum": [f"value {i}" for i in range(6000)]}),
    ("json_schema", {"enum": ["x" * 100] * 20000}),
    ("lark", rules("a%x", MAX_SOURCE)[:MAX_SOURCE]),
    ("lark", rules('"x" (a%x | "y")', MAX_SOURCE - 100)),
    ("lark", "start: " + "(" * 16000 + '"a"' + ")" * 16000),
    ("lark", "start: start start | "),
    ("lark", 'start: ((("a"? "b"?){0,1000}){0,1000}){0,1000}'),
    ("lark", 'start: a{1000000}\\na: b{1000000}\\nb: "x"'),
    ("gbnf", "root ::= ([a-z]? [a-z]?){0,200}"),
    ("gbnf", "root ::= " + "(" * 16000 + '"a"' + ")" * 16000),
    ("regex", "(" * 16000 + "a" + ")" * 16000),
    ("regex", "(((a{1,100}){1,100}){1,100}){1,100}"),
    ("regex", "(.|\\\\n)*a(.|\\\\n){30}b"),
    ("regex", "(a*b)?" * 5000),
]
grammars, done = compiler(), threading.Event()

def start(number, request):
    kind, value = cases[number]
    began = time.perf_counter()
    try:
        matcher = grammars.matcher(answer_grammar(Constraint(kind, value)))
        walk(matcher, np.random.default_rng(number), 30)
        result = "followed"
    except BadRequest as error:
        result = error.message[:90]
    print(json.dumps([kind, result, time.perf_counter() - began]), flush=True)
    if number == len(cases) - 1:
        done.set()

queue = CompileQueue(start, print, lambda number, error: (print(repr(error), file=sys.stderr), done.set()))
for number in range(len(cases)):
    queue.put(number, None)
done.wait()
print(len(cases))
"""


def test_hostile_grammars_do_not_end_the_process() -> None:
    """Chains as long as a grammar may be, nests, repetitions of repetitions."""
    run = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and not run.stderr, run.stdout[-500:] + run.stderr[-2000:]
    *results, count = (json.loads(line) for line in run.stdout.splitlines())
    assert len(results) == count
    assert any(result == "followed" for _, result, _ in results)


def test_a_mask_leaves_what_it_allows_as_it_is() -> None:
    row = np.arange(6, dtype=np.float32)
    apply_mask(row, np.array([True, False, True, False]))
    assert row.tolist() == [0, -np.inf, 2, -np.inf, -np.inf, -np.inf]
