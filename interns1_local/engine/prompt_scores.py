"""What a model thinks of the tokens of a prompt itself: logits at all of its places, a few of them in each step."""

from __future__ import annotations

from collections.abc import Callable

from interns1_local.engine.llama import Batch
from interns1_local.engine.plan import Span
from interns1_local.engine.sampling import Logits, RankedToken, SampledToken, describe, log_probabilities
from interns1_local.engine.sequence import Sequence


def start(sequence: Sequence) -> None:
    """Let the prompt of `sequence` be scored. Nothing comes before its first token: the log-probability is 0."""
    sequence.scores_prompt = True
    sequence.prompt_scores.append(SampledToken(RankedToken(sequence.keys[0], 0.0), ()))


def want_outputs(batch: Batch, span: Span, last: int) -> None:
    """Ask for logits at the places of `span` that a token of the prompt follows; `last` is its last batch index."""
    first = last - (span.stop - 1 - span.start)
    batch.outputs[first : first + len(_places(span))] = 1


def note(span: Span, last: int, logits: Callable[[int], Logits]) -> None:
    """Note the tokens of the prompt that follow a place of `span`, from `logits` at batch indices up to `last`."""
    sequence = span.sequence
    for place in _places(span):
        # What is computed again, after making room for others, is known.
        if len(sequence.prompt_scores) == place + 1:
            row = log_probabilities(logits(last - (span.stop - 1 - place)))
            following = sequence.keys[place + 1]
            sequence.prompt_scores.append(describe(row, following, sequence.sampling.logprobs or 0))


def take(sequence: Sequence) -> tuple[SampledToken, ...]:
    """The scores, handed over once."""
    sequence.scores_prompt = False
    return tuple(sequence.prompt_scores)


def _places(span: Span) -> range:
    return range(span.start, max(span.start, min(span.stop, span.sequence.n_prompt - 1)))
