"""Speculative decoding: tokens that may come next are computed with the last one, and kept where they turn out right.

Pure: this file guesses, and decides how many guesses are worth their time. The engine computes them, chooses the token
of every place as it always does, and keeps a guess as long as it is that token: no answer depends on what is guessed.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from interns1_local.engine.sequence import Sequence
from interns1_local.errors import BadRequest

MODES = ("auto", "lookup", "draft", "off")
MOST_DRAFTED = 24

# Matches are told apart by their length up to this one.
LONGEST_MATCH = 12
# Earlier places of the same two tokens that are compared.
CANDIDATES = 12
# Trials that the first opinion about a kind of guess counts for, and how fast old trials are forgotten.
FIRST_WEIGHT = 3.0
MEMORY = 0.93
# What a step with guesses must promise against one without: a narrower lead is not worth the risk.
LEAD = 1.05
# How finely a draft model's own certainty is told apart.
SURE_LEVELS = 8
OBSERVATIONS = 5
# Steps after which the cost of a width is measured again.
STALE_BASE = 64
STALE = 1000
# Tokens until a draft model that was no help is tried again.
RETRY = 64


@dataclass(frozen=True, slots=True)
class Speculation:
    """What a request allows: a kind of guessing, and how many tokens at once."""

    mode: str = "auto"
    most: int = MOST_DRAFTED

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadRequest(f"speculative must be one of {', '.join(MODES)}; it is {self.mode!r}")


SPECULATE = Speculation()


# Of each token of a guess, if those before it are right.
Chances = tuple[float, ...]


@dataclass(eq=False, slots=True)
class ModelGuess:
    """What a draft model says next, and how sure it is of each token."""

    tokens: list[int] = field(default_factory=list)
    sure: list[float] = field(default_factory=list)


class DraftSource(Protocol):
    """A draft model."""

    @property
    def seconds(self) -> float:
        """Of one round, which is one token for each sequence; 0 while it is unknown."""

    def can_read(self, sequence: Sequence) -> bool: ...

    def guess(self, sequences: list[Sequence], most: list[int]) -> list[ModelGuess]: ...

    def end(self, sequence: Sequence) -> None: ...


class NgramIndex:
    """Where each pair of tokens of a sequence stood before, to find what came after a text like its end."""

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}
        # For each place, the place before it where the same pair ends.
        self._before: list[int] = [-1]
        self._n_indexed = 1

    def find(self, keys: list[int], most: int) -> tuple[int, list[int]]:
        """(length of the longest match, what followed it up to `most` tokens). Places of pictures match nothing."""
        self._index(keys)
        last = len(keys) - 1
        if last < 1:
            return 0, []
        place = self._latest.get((keys[last - 1], keys[last]), -1)
        best, found = 0, -1
        for _ in range(CANDIDATES):
            if place < 0:
                break
            length = _match(keys, place, last)
            if length > best:
                best, found = length, place
                if best >= LONGEST_MATCH:
                    break
            place = self._before[place]
        if found < 0:
            return 0, []
        following = keys[found + 1 : found + 1 + most]
        while len(following) < most:
            # The copy has reached the end of the sequence: it goes on with itself.
            following += following[: most - len(following)]
        return best, following

    def _index(self, keys: list[int]) -> None:
        """Take in all pairs but the last, which is the one that is looked for."""
        latest, before = self._latest, self._before
        for place in range(self._n_indexed, len(keys) - 1):
            first, second = keys[place - 1], keys[place]
            if first < 0 or second < 0:
                before.append(-1)
                continue
            pair = first, second
            before.append(latest.get(pair, -1))
            latest[pair] = place
        self._n_indexed = max(self._n_indexed, len(keys) - 1)


def _match(keys: list[int], place: int, last: int) -> int:
    length = 0
    while length < LONGEST_MATCH and length <= place and keys[place - length] == keys[last - length] >= 0:
        length += 1
    return length


class Trials:
    """How often guesses of each kind came true, the latest counting most."""

    def __init__(self, first: list[float]) -> None:
        self._hits = [chance * FIRST_WEIGHT for chance in first]
        self._count = [FIRST_WEIGHT] * len(first)

    def chance(self, kind: int) -> float:
        return self._hits[kind] / self._count[kind]

    def note(self, kind: int, hit: bool) -> None:
        self._hits[kind] = self._hits[kind] * MEMORY + hit
        self._count[kind] = self._count[kind] * MEMORY + 1.0


class StepCosts:
    """Seconds of a step by the number of its tokens, learned from steps that were taken."""

    def __init__(self) -> None:
        self._observed: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}
        self._seen_at: dict[int, int] = {}
        self._tick = 0

    def observe(self, width: int, seconds: float) -> None:
        """A step with `width` tokens took `seconds`."""
        self._tick += 1
        if self._tick % STALE_BASE == 0:
            for old in [w for w, tick in self._seen_at.items() if self._tick - tick > STALE]:
                del self._observed[old], self._median[old], self._seen_at[old]
        observed = self._observed.setdefault(width, deque(maxlen=OBSERVATIONS))
        observed.append(seconds)
        self._median[width] = statistics.median(observed)
        self._seen_at[width] = self._tick

    def knows(self, width: int) -> bool:
        """Whether a step of this width was taken lately."""
        return width in self._seen_at and self._tick - self._seen_at[width] <= STALE_BASE

    def curve(self, first: int, last: int) -> list[float]:
        """Estimates for the widths `first`, which is known, to `last`.

        Between known widths they lie on a line; beyond, they grow like the root, which is hopeful: so it is tried.
        """
        known = sorted(width for width in self._median if width >= first)
        estimates = []
        for low, high in zip(known, [*known[1:], last + 1], strict=True):
            start = self._median[low]
            for width in range(low, min(high, last + 1)):
                if high in self._median:
                    share = (width - low) / (high - low)
                    estimates.append(start + (self._median[high] - start) * share)
                else:
                    estimates.append(start * math.sqrt(width / low))
        return estimates


def _first_chances() -> list[float]:
    """Of matches by their length: of long ones much is hoped, of short ones little until they proved right. Then of a
    draft model by how sure it is, and of a draft model as a whole. Then of what a guide all but forces, and of its last
    token, which often goes on with what is free again."""
    matches = [0.0, 0.0] + [min(0.9, 0.15 + 0.1 * length) for length in range(2, LONGEST_MATCH + 1)]
    return [*matches, *((level + 0.5) / SURE_LEVELS for level in range(SURE_LEVELS)), 0.7, 0.9, 0.5]


SURE_KINDS = LONGEST_MATCH + 1
MODEL_KIND = SURE_KINDS + SURE_LEVELS
FORCED_KIND, LAST_FORCED_KIND = MODEL_KIND + 1, MODEL_KIND + 2


@dataclass(eq=False, slots=True)
class _Request:
    speculation: Speculation
    index: NgramIndex = field(default_factory=NgramIndex)
    trials: Trials = field(default_factory=lambda: Trials(_first_chances()))
    # The last guess: of the tokens from this place on, and their kinds. Its first token is judged even if it was not
    # computed.
    place: int = 0
    tokens: tuple[int, ...] = ()
    kinds: list[int] = field(default_factory=list)
    retry_at: int = 0

    def learn(self, keys: list[int]) -> None:
        """Compare the last guess, whether it was computed or not, with what has come."""
        for token, wanted, kind in zip(self.tokens, keys[self.place :], self.kinds, strict=False):
            self.trials.note(kind, token == wanted)
            if SURE_KINDS <= kind < MODEL_KIND:
                self.trials.note(MODEL_KIND, token == wanted)
            if token != wanted:
                break
        self.place, self.tokens = len(keys), ()

    def guess(self, tokens: tuple[int, ...], kinds: list[int]) -> Chances:
        self.tokens, self.kinds = tokens, kinds[: len(tokens)]
        return tuple(self.trials.chance(kind) for kind in self.kinds)


class Speculator:
    """Drafts for the sequences of an engine: where from, and how long."""

    def __init__(self, end_ids: Collection[int], n_ctx: int, n_outputs: int, source: DraftSource | None = None) -> None:
        self._end_ids = end_ids
        self._n_ctx = n_ctx
        self._n_outputs = n_outputs
        self._source = source
        self._costs = StepCosts()
        self._requests: dict[int, _Request] = {}

    def start(self, sequence: Sequence, speculation: Speculation) -> None:
        if speculation.mode != "off" and speculation.most > 0:
            self._requests[sequence.id] = _Request(speculation)

    def end(self, sequence: Sequence) -> None:
        if self._requests.pop(sequence.id, None) is not None and self._source is not None:
            self._source.end(sequence)

    def observe(self, width: int, seconds: float) -> None:
        """A step with `width` tokens, each with an output, took `seconds`."""
        if width <= 2 * self._n_outputs:
            self._costs.observe(width, seconds)

    def judge(self, sequence: Sequence, n_drafted: int, n_accepted: int) -> None:
        """Of the drafted tokens so many came true."""
        sequence.n_drafted += n_drafted
        sequence.n_accepted += n_accepted
        sequence.draft = ()

    def draft(self, sequences: list[Sequence], upcoming: Callable[[Sequence], list[int]] = lambda sequence: []) -> None:
        """Set the drafts of `sequences`, which are all that the next step decodes.

        `upcoming` gives the tokens that a sequence's guide all but forces to come next.
        """
        chances: list[Chances] = []
        for sequence in sequences:
            sequence.draft = ()
            request = self._requests.get(sequence.id)
            chances.append(() if request is None else self._look_up(sequence, request, upcoming))
        if self._source is not None:
            self._ask(self._source, sequences, chances)
        if not any(chances):
            return
        for sequence, length in zip(sequences, self._lengths(chances), strict=True):
            if length:
                sequence.draft = self._requests[sequence.id].tokens[:length]

    def _lengths(self, chances: list[Chances], round_seconds: float = 0.0) -> list[int]:
        return best_lengths(chances, self._n_outputs - len(chances), self._costs, round_seconds)

    def _look_up(self, sequence: Sequence, request: _Request, upcoming: Callable[[Sequence], list[int]]) -> Chances:
        """The chances of what the sequence itself and its guide suggest."""
        request.learn(sequence.keys)
        room = self._room(sequence, request)
        if room < 1:
            return ()
        length, following = 0, list[int]()
        if request.speculation.mode != "draft":
            length, following = request.index.find(sequence.keys, room)
        forced = upcoming(sequence)
        if forced and following[:1] != forced[:1]:
            return request.guess(self._usable(forced[:room]), [FORCED_KIND] * (len(forced) - 1) + [LAST_FORCED_KIND])
        kinds = [min(length + ahead, LONGEST_MATCH) for ahead in range(len(following))]
        return request.guess(self._usable(following), kinds)

    def _room(self, sequence: Sequence, request: _Request) -> int:
        """How many tokens may be guessed so that one more can follow them."""
        left = min(sequence.max_tokens - sequence.n_output, self._n_ctx - len(sequence.keys)) - 1
        return min(request.speculation.most, MOST_DRAFTED, left)

    def _ask(self, source: DraftSource, sequences: list[Sequence], chances: list[Chances]) -> None:
        """Let the draft model guess where that pays and a look into the text has promised less; changes `chances`."""
        hoped, asked = list(chances), []
        for index, sequence in enumerate(sequences):
            request = self._requests.get(sequence.id)
            if request is None or request.speculation.mode == "lookup" or not source.can_read(sequence):
                continue
            trust, room = request.trials.chance(MODEL_KIND), self._room(sequence, request)
            if room > 0 and (not chances[index] or chances[index][0] < trust):
                hoped[index] = (trust,) * room
                asked.append(index)
        lengths = self._lengths(hoped, source.seconds) if asked else []
        wanted = {}
        for index in asked:
            request = self._requests[sequences[index].id]
            length = lengths[index]
            if not length and request.place >= request.retry_at and self._costs.knows(len(sequences)):
                # One that is only compared with what comes: it costs no place in the step.
                request.retry_at = request.place + RETRY
                length = 1
            if length:
                wanted[index] = length
        if not wanted:
            return
        guesses = source.guess([sequences[index] for index in wanted], list(wanted.values()))
        for index, guess in zip(wanted, guesses, strict=True):
            if guess.tokens:
                kinds = [SURE_KINDS + min(int(sure * SURE_LEVELS), SURE_LEVELS - 1) for sure in guess.sure]
                chances[index] = self._requests[sequences[index].id].guess(self._usable(guess.tokens), kinds)

    def _usable(self, tokens: list[int]) -> tuple[int, ...]:
        """Up to what cannot be guessed: the place of a picture, or an end, after which nothing is computed."""
        for index, token in enumerate(tokens):
            if token < 0 or token in self._end_ids:
                return tuple(tokens[:index])
        return tuple(tokens)


def best_lengths(chances: list[Chances], room: int, costs: StepCosts, round_seconds: float = 0.0) -> list[int]:
    """How many guesses of each sequence make the most tokens a second.

    Args:
        chances: of each sequence's guesses, each if those before it are right.
        room: guesses that a step can take.
        costs: of steps, by their tokens.
        round_seconds: what one guess for each sequence costs before the step.
    """
    n_sequences = len(chances)
    lengths = [0] * n_sequences
    if not costs.knows(n_sequences):
        return lengths
    gains = []
    for index, sequence in enumerate(chances):
        gain = 1.0
        for n_rounds, chance in enumerate(sequence, 1):
            gain *= chance
            gains.append((gain, index, n_rounds))
    # Within a sequence the gains fall, so this takes each sequence's guesses in order.
    gains.sort(key=lambda entry: -entry[0])
    gains = gains[: max(room, 0)]
    base, *seconds = costs.curve(n_sequences, n_sequences + len(gains))
    tokens, best, n_best, rounds = float(n_sequences), LEAD * n_sequences / base, 0, 0
    for count, (gain, _, n_rounds) in enumerate(gains, 1):
        tokens += gain
        rounds = max(rounds, n_rounds)
        rate = tokens / (seconds[count - 1] + rounds * round_seconds)
        if rate > best:
            best, n_best = rate, count
    for _, index, _ in gains[:n_best]:
        lengths[index] += 1
    return lengths
