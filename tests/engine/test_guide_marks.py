"""Marks in a guided answer, as tokens and as text: thoughts, marks that a grammar follows, forbidden marks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from interns1_local.engine.grammar import GrammarCompiler
from interns1_local.engine.guide import Guide, Marks, ThoughtRules
from interns1_local.errors import BadRequest
from interns1_local.generation.constraints import Constraint, answer_grammar
from tests.random_walk import IDS, PIECES, compiler, guided_walk, marks, text_of

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 12]}},
    "required": ["a"],
    "additionalProperties": False,
}
HELD = answer_grammar(Constraint("json_schema", SCHEMA))
CALL = f'start: "\\n" body "\\n"? <[{IDS[b"<|action_end|>"]}]>\nbody: %json {json.dumps(SCHEMA)}\n'
OPEN_CALL = "<|action_start|><|plugin|>"
SPELLED = "<call>"


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return compiler()


def mask(guide: Guide) -> np.ndarray:
    row = np.zeros(len(PIECES), np.float32)
    guide.restrict(row)
    return np.isfinite(row)


def feed(guide: Guide, *pieces: bytes) -> None:
    """Whole pieces as their tokens, other texts byte by byte."""
    for piece in pieces:
        for token in [IDS[piece]] if piece in IDS else list(piece):
            assert mask(guide)[token], f"{PIECES[token]!r} of {piece!r} is forbidden"
            guide.accept(token)


@pytest.mark.parametrize("spelled", [False, True])
def test_random_thoughts_then_what_the_grammar_says(grammars: GrammarCompiler, spelled: bool) -> None:
    """Whatever the tokens of a thought and of its end are, what stands after it is the grammar's and nothing else."""
    vocabulary, noise, ended = marks(spelled), np.random.default_rng(0), 0
    for budget in (0, 1, 5, 40, 41, 42):
        rules = ThoughtRules(starts_inside=True, budget=budget)
        guide = Guide(rules, vocabulary, grammars.matcher(HELD))
        ids, is_whole = guided_walk(guide, noise)
        ended += is_whole
        _, mark, answer = text_of(ids).partition(b"</think>")
        assert mark
        if is_whole:
            assert json.loads(answer.decode()) in ({"a": 1}, {"a": 12})
    assert ended >= 4


@pytest.mark.parametrize(
    "pieces", [(b"</think>",), (b"<", b"/think>"), (b"</", b"think", b">"), (b"</", b"think", b">\n")]
)
def test_the_end_of_a_thought_is_one_token_or_several(grammars: GrammarCompiler, pieces: tuple[bytes, ...]) -> None:
    guide = Guide(ThoughtRules(starts_inside=True), marks(), grammars.matcher(HELD))
    feed(guide, b"{", b"free", b"</", b"thin", *pieces)
    assert not mask(guide)[IDS[b"f"]] and mask(guide)[IDS[b"{"]] and mask(guide)[IDS[b"\n\n"]]
    feed(guide, b"\n\n", b'{"', b"a", b'": ', b"12", b"}")
    assert guide.finished


def test_a_token_that_goes_on_after_the_mark_is_forbidden_where_a_grammar_waits(grammars: GrammarCompiler) -> None:
    """The grammar would not see the beginning of the answer in it."""
    guide = Guide(ThoughtRules(starts_inside=True), marks(), grammars.matcher(HELD))
    assert not mask(guide)[IDS[b"</think>\n\n{"]]
    assert mask(guide)[IDS[b">{"]]
    feed(guide, b"</", b"think")
    assert not mask(guide)[IDS[b">{"]] and mask(guide)[IDS[b">\n"]] and mask(guide)[IDS[b">"]]
    free = Guide(ThoughtRules(starts_inside=True, budget=9), marks())
    assert mask(free).all()


@pytest.mark.parametrize("spelled", [False, True])
def test_a_thought_that_the_model_opens(grammars: GrammarCompiler, spelled: bool) -> None:
    opener = (b"<", b"think", b">") if spelled else (b"<think>",)
    guide = Guide(ThoughtRules(may_open=True), marks(spelled), grammars.matcher(HELD))
    assert mask(guide)[IDS[b"{"]] and not mask(guide)[IDS[b"f"]]
    feed(guide, *opener, b"so", b"</", b"think", b">", b"\n\n", b"{")
    assert guide.thought_tokens == (7 if spelled else 1) + len("so") + 7
    assert not mask(guide)[IDS[b"f"]]


def test_half_an_opening_has_to_become_a_whole_one(grammars: GrammarCompiler) -> None:
    guide = Guide(ThoughtRules(may_open=True), marks(spelled=True), grammars.matcher(HELD))
    feed(guide, b"<")
    assert {PIECES[token] for token in np.flatnonzero(mask(guide))} == {b"t"}
    feed(guide, b"think>")
    assert mask(guide)[IDS[b"f"]]


def test_a_grammar_that_begins_as_a_thought_does(grammars: GrammarCompiler) -> None:
    """Both are open until one of them is left."""
    tag = answer_grammar(Constraint("regex", "<t[ah]>"))
    for spelled in (True, False):
        guide = Guide(ThoughtRules(may_open=True), marks(spelled), grammars.matcher(tag))
        feed(guide, b"<", b"t", b"a", b">")
        assert guide.finished
    guide = Guide(ThoughtRules(may_open=True), marks(spelled=True), grammars.matcher(tag))
    feed(guide, b"<", b"t", b"h", b"ink>", b"thought</think>", b"<t", b"a>")
    assert guide.finished


def test_no_thought_may_be_opened_later(grammars: GrammarCompiler) -> None:
    words = answer_grammar(Constraint("regex", "[a-z]{4}"))
    for rules in (ThoughtRules(), ThoughtRules(may_open=True)):
        guide = Guide(rules, marks(), grammars.matcher(words))
        assert mask(guide)[IDS[b"<think>"]] == rules.may_open
        feed(guide, b"ab")
        assert not mask(guide)[IDS[b"<think>"]]


def test_an_end_inside_of_a_thought_closes_it_first(grammars: GrammarCompiler) -> None:
    guide = Guide(ThoughtRules(starts_inside=True), marks(), grammars.matcher(HELD))
    feed(guide, b"so\n")
    closing = []
    token = guide.instead_of_end()
    while token is not None:
        closing.append(token)
        guide.accept(token)
        token = guide.forced()
    assert text_of(closing) == b"</think>\n\n", "the line end before it is there already"
    assert mask(guide)[IDS[b"{"]] and not mask(guide)[IDS[b"f"]]
    assert Guide(ThoughtRules(starts_inside=True, budget=5), marks()).instead_of_end() is None


@pytest.mark.parametrize("mark", [OPEN_CALL, SPELLED])
def test_a_grammar_that_holds_after_a_mark(grammars: GrammarCompiler, mark: str) -> None:
    """Free text, a block, free text, another block; thoughts may hold the mark, which is none there."""
    guide = Guide(ThoughtRules(starts_inside=True), marks(), grammars.matcher(CALL), after=mark)
    pieces = (b"<|action_start|>", b"<|plugin|>") if mark == OPEN_CALL else (b"<ca", b"ll>")
    feed(guide, b"I could ", *pieces, b" or not</think>")
    for number in (b"1", b"12"):
        feed(guide, b"free {text} ", *pieces)
        assert np.flatnonzero(mask(guide)).tolist() == [IDS[b"\n"]]
        feed(guide, b'\n{"', b"a", b'": ', number, b"}\n")
        assert not guide.finished
        feed(guide, b"<|action_end|>")
        assert mask(guide)[IDS[b"<|end|>"]]
    assert not guide.finished


def test_what_overruns_the_mark_of_a_block_is_forbidden(grammars: GrammarCompiler) -> None:
    guide = Guide(ThoughtRules(), marks(), grammars.matcher(CALL), after="<tag>")
    feed(guide, b"<tag")
    assert mask(guide)[IDS[b">"]] and not mask(guide)[IDS[b">{"]]


@pytest.mark.parametrize(
    ("mark", "before", "last"), [("<|action_start|>", (), b"<|action_start|>"), ("<b>", (b"<b",), b">")]
)
def test_a_forbidden_mark(mark: str, before: tuple[bytes, ...], last: bytes) -> None:
    guide = Guide(ThoughtRules(starts_inside=True), marks(), forbidden=mark)
    feed(guide, b"thoughts are free: ", *before, last, b"</think>", b"text ", *before)
    allowed = mask(guide)
    assert not allowed[IDS[last]]
    assert allowed.sum() >= len(PIECES) - 4, "all else is as it was"
    feed(guide, b" ", b">")


def test_nothing_left_is_the_end_only_where_the_grammar_is_satisfied(grammars: GrammarCompiler) -> None:
    guide = Guide(ThoughtRules(), marks(), grammars.matcher(answer_grammar(Constraint("regex", "ab*"))))
    with pytest.raises(BadRequest, match="logit_bias"):
        guide.check_end()
    feed(guide, b"a")
    guide.check_end()


def test_marks_are_found_in_every_vocabulary() -> None:
    assert Marks.of(PIECES, [0]).openers(b"").tolist() == [IDS[b"<think>"]]
    assert {PIECES[token] for token in marks(spelled=True).openers(b"")} == {b"<", b"<think"}
