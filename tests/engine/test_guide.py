"""Grammars, thoughts and budgets in the engine: whatever a random model prefers, its answer obeys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.grammar import GrammarCompiler
from interns1_local.engine.guide import Guide, Marks, ThoughtRules
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest
from interns1_local.generation.constraints import Constraint, answer_grammar
from tests.engine.test_engine import ids, run
from tests.tiny import byte_symbols

MakeEngine = Callable[..., Engine]
SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 12}}, "required": ["a"],
     "additionalProperties": False},
    {"type": "array", "items": {"enum": ["x", "yy", None, 4]}, "minItems": 2, "maxItems": 3},
    {"type": "object", "properties": {"s": {"type": "string", "maxLength": 4}, "b": {"type": "boolean"}},
     "required": ["s", "b"], "additionalProperties": False},
    {"anyOf": [{"const": "CC(=O)O"}, {"type": "number", "minimum": 0, "maximum": 1}]},
    {"type": "object", "properties": {"d": {"$ref": "#/$defs/d"}}, "required": ["d"], "additionalProperties": False,
     "$defs": {"d": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}}},
]  # fmt: skip


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine(n_cells=4096)


@pytest.fixture
def marks(engine: Engine) -> Marks:
    pieces = _pieces(engine)
    return Marks.of(pieces, list(b"\n</think>\n\n"))


@pytest.fixture
def compiler(engine: Engine, marks: Marks) -> GrammarCompiler:
    vocab = engine.model.vocab
    return GrammarCompiler(marks.pieces, range(256, len(marks.pieces)), vocab.eog_ids)


def _pieces(engine: Engine) -> list[bytes]:
    """The tiny vocabulary: 256 bytes in GPT-2's alphabet, then marks."""
    alphabet = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    return [
        bytes([alphabet[text]]) if text in alphabet and token < 256 else text.encode()
        for token, text in enumerate(engine.model.vocab.tokens)
    ]


def text_of(outputs: list[StepOutput], marks: Marks) -> str:
    return b"".join(marks.pieces[token] for token in ids(outputs)).decode()


def sampled(seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.5, top_k=0, top_p=1.0, seed=seed)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_answers_validate(engine: Engine, marks: Marks, compiler: GrammarCompiler, schema: dict[str, Any]) -> None:
    grammar = answer_grammar(Constraint("json_schema", schema))
    requests = [
        EngineRequest(seed, [65, 66, seed], sampled(seed), 400, Guide(ThoughtRules(), marks, compiler.matcher(grammar)))
        for seed in range(6)
    ]
    results = run(engine, requests)
    assert any(outputs[-1].finish == "stop" for outputs in results.values())
    for outputs in results.values():
        assert outputs[-1].error is None
        if outputs[-1].finish == "stop":
            jsonschema.validate(json.loads(text_of(outputs, marks)), schema)


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (Constraint("regex", r"[a-c]{3}/[0-9]+x"), r"[a-c]{3}/[0-9]+x"),
        (Constraint("choice", ["yes", 'no "way"']), r'yes|no "way"'),
        (Constraint("gbnf", 'root ::= "ab" [0-9]? "c"'), r"ab[0-9]?c"),
        (Constraint("lark", 'start: "q" ("r" | "s")+ "t"'), r"q[rs]+t"),
    ],
)
def test_other_grammars(
    engine: Engine, marks: Marks, compiler: GrammarCompiler, constraint: Constraint, pattern: str
) -> None:
    import re

    grammar = answer_grammar(constraint)
    guides = [Guide(ThoughtRules(), marks, compiler.matcher(grammar)) for _ in range(4)]
    requests = [EngineRequest(i, [70, i], sampled(i), 300, guide) for i, guide in enumerate(guides)]
    results = run(engine, requests)
    assert any(outputs[-1].finish == "stop" for outputs in results.values())
    for outputs in results.values():
        if outputs[-1].finish == "stop":
            assert re.fullmatch(pattern, text_of(outputs, marks))


def test_some_with_a_grammar_and_some_without(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    """The free answers are those that they are alone."""
    free = [EngineRequest(i, [80 + i] * 9, SamplingParams(temperature=0, ignore_eos=True), 24) for i in range(4)]
    alone = {i: ids(outputs) for i, outputs in run(engine, free).items()}
    grammar = answer_grammar(Constraint("json"))
    held = [
        EngineRequest(10 + i, [90 + i], sampled(i), 24, Guide(ThoughtRules(), marks, compiler.matcher(grammar)))
        for i in range(4)
    ]
    together = run(engine, [*free, *held])
    assert {i: ids(together[i]) for i in range(4)} == alone
    assert all(text_of(together[10 + i], marks).startswith("{") for i in range(4))


def test_blanks_end(marks: Marks, compiler: GrammarCompiler) -> None:
    """A grammar that allows blanks for ever does not get them for ever."""
    matcher = compiler.matcher(answer_grammar(Constraint("json")))
    matcher.consume(ord("{"))
    for _ in range(96):
        assert matcher.allowed()[ord(" ")]
        matcher.consume(ord(" "))
    assert not matcher.allowed()[ord(" ")] and matcher.allowed()[ord('"')]


@pytest.mark.parametrize("budget", [0, 3, 7])
def test_a_budget_closes_the_thought(engine: Engine, marks: Marks, budget: int) -> None:
    rules = ThoughtRules(starts_inside=True, budget=budget, max_answer_tokens=5)
    request = EngineRequest(1, [65, 66, 67], SamplingParams(temperature=0, ignore_eos=True), 100, Guide(rules, marks))
    outputs = run(engine, [request])[1]
    chosen, closing = ids(outputs), list(b"\n</think>\n\n")
    assert chosen[budget : budget + len(closing)] == closing
    # The line ends that were forced are no part of the answer.
    assert len(chosen) == budget + len(closing) + 5 and outputs[-1].finish == "length"
    assert outputs[-1].usage is not None and outputs[-1].usage.thought_tokens == budget + len(b"\n</think>")
    free = EngineRequest(2, [65, 66, 67, *chosen[:-3]], SamplingParams(temperature=0, ignore_eos=True), 3)
    assert ids(run(engine, [free])[2]) == chosen[-3:], "what follows is what the model says after the same ids"


def test_the_grammar_begins_after_the_thought(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    grammar = answer_grammar(Constraint("regex", "[0-9]{2}"))
    for seed in range(4):
        rules = ThoughtRules(starts_inside=True, budget=6)
        guide = Guide(rules, marks, compiler.matcher(grammar))
        outputs = run(engine, [EngineRequest(seed, [65, seed], sampled(seed), 200, guide)])[seed]
        text = b"".join(marks.pieces[token] for token in ids(outputs))
        thought, _, answer = text.partition(b"</think>")
        assert answer.strip(b"\n").isdigit() and len(answer.strip(b"\n")) == 2 and len(thought) >= 6
        assert outputs[-1].finish == "stop"


def test_a_thought_may_open_only_at_the_start(marks: Marks, compiler: GrammarCompiler) -> None:
    pieces = [*marks.pieces, b"<think>"]
    opening = Marks.of(pieces, [10])
    grammar = answer_grammar(Constraint("regex", "[0-9]{2}"))
    wide = GrammarCompiler(pieces, [len(pieces) - 1], [0])
    for may_open in (True, False):
        guide = Guide(ThoughtRules(may_open=may_open), opening, wide.matcher(grammar))
        row = np.zeros(len(pieces), np.float32)
        guide.restrict(row)
        assert np.isfinite(row[-1]) == may_open and np.isfinite(row[ord("5")]) and not np.isfinite(row[ord("a")])
        guide.accept(ord("5"))
        row = np.zeros(len(pieces), np.float32)
        guide.restrict(row)
        assert not np.isfinite(row[-1])
    guide = Guide(ThoughtRules(may_open=True), opening, wide.matcher(grammar))
    guide.accept(len(pieces) - 1)
    row = np.zeros(len(pieces), np.float32)
    guide.restrict(row)
    assert np.isfinite(row).all(), "inside the thought everything is free"


def test_a_grammar_that_hangs_llama_cpp(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    grammar = answer_grammar(Constraint("gbnf", "root ::= ([a-z]? [a-z]?){0,200}"))
    guide = Guide(ThoughtRules(), marks, compiler.matcher(grammar))
    outputs = run(engine, [EngineRequest(1, [65], sampled(1), 50, guide)])[1]
    assert outputs[-1].error is None
    text = text_of(outputs, marks)
    assert not text or text.islower()


def test_no_end_token_and_a_format_end_together(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    """Where the end may not be chosen, the grammar still ends; what it leaves open goes on up to the limit."""
    held = {"[a-c]{3}": ("stop", 3), "[a-c]+": ("length", 9)}
    for number, (pattern, expected) in enumerate(held.items()):
        guide = Guide(ThoughtRules(), marks, compiler.matcher(answer_grammar(Constraint("regex", pattern))))
        sampling = SamplingParams(temperature=0, ignore_eos=True)
        outputs = run(engine, [EngineRequest(number, [65], sampling, 9, guide)])[number]
        assert (outputs[-1].finish, len(ids(outputs))) == expected


def test_a_bias_that_forbids_what_the_format_asks_for(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    banned = SamplingParams(temperature=0, logit_bias={ord("b"): -100.0})
    grammar = answer_grammar(Constraint("regex", "ab"))
    outputs = run(engine, [EngineRequest(1, [65], banned, 9, Guide(ThoughtRules(), marks, compiler.matcher(grammar)))])[
        1
    ]
    assert isinstance(outputs[-1].error, BadRequest)
    assert "logit_bias" in outputs[-1].error.message
    open_end = answer_grammar(Constraint("regex", "ab*"))
    no_end = SamplingParams(temperature=0, ignore_eos=True, logit_bias={ord("b"): -100.0})
    guide = Guide(ThoughtRules(), marks, compiler.matcher(open_end))
    outputs = run(engine, [EngineRequest(2, [65], no_end, 9, guide)])[2]
    assert (outputs[-1].finish, text_of(outputs, marks)) == ("stop", "a")


def test_log_probabilities_are_the_model_s_own(engine: Engine, marks: Marks, compiler: GrammarCompiler) -> None:
    """A format changes what is chosen, not what is reported."""
    sampling = SamplingParams(temperature=0, ignore_eos=True, logprobs=3)
    (free, *_) = run(engine, [EngineRequest(1, [65, 66], sampling, 1)])[1]
    guide = Guide(ThoughtRules(), marks, compiler.matcher(answer_grammar(Constraint("regex", "[0-9]{4}"))))
    (held, *_) = run(engine, [EngineRequest(2, [65, 66], sampling, 4, guide)])[2]
    assert held.logprobs[0].top == free.logprobs[0].top
    assert held.token_ids != free.token_ids
    assert held.logprobs[0].chosen.logprob < free.logprobs[0].chosen.logprob
