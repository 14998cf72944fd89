"""A second, small model of the same vocabulary that guesses what the first will say; see speculative.py."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from interns1_local.engine.llama import Batch, CacheFull, Context, EngineError, Model, Vocab
from interns1_local.engine.offload import Offload
from interns1_local.engine.prefix_cache import common_prefix
from interns1_local.engine.sequence import Sequence
from interns1_local.engine.speculative import ModelGuess
from interns1_local.errors import LoadError

# Tokens of prompts that are read in one step, so that others' answers do not wait for long.
READ_AT_ONCE = 256
# Vocabularies are filled up to round numbers of rows.
MOST_PADDING = 1024
# A guess ends where the model is less sure of it than this.
LEAST_SURE = 0.3
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Slot:
    """A sequence number of the context: the ids that it holds, and the request that it is at work for."""

    number: int
    keys: list[int] = field(default_factory=list)
    request_id: int | None = None


class DraftModel:
    """Guesses greedily. It reads each sequence in its own context, a part of the prompt with each step."""

    def __init__(
        self,
        path: Path,
        vocab: Vocab,
        n_cells: int,
        n_seq_max: int,
        n_threads: int,
        offload: Offload,
        kv_type: str,
    ) -> None:
        """Raises LoadError when the file is no model of the vocabulary `vocab`."""
        self._model = Model(path, offload)
        check_vocabulary(path, self._model.vocab, vocab)
        if self._model.is_recurrent:
            raise LoadError(f"the draft model {path} is recurrent: it cannot take a guess back; give another")
        self._n_tokens = min(self._model.vocab.n_tokens, vocab.n_tokens)
        n_batch = min(max(READ_AT_ONCE, n_seq_max), n_cells)
        self._context = Context(self._model, n_cells, n_batch, n_seq_max, n_threads, kv_type)
        self._batch = Batch(n_batch)
        self._slots = [_Slot(number) for number in range(n_seq_max)]
        self._at_work: set[int] = set()
        self._seconds = 0.0
        self._broken = False

    @property
    def seconds(self) -> float:
        """Of one round, which is one token for each sequence; 0 while it is unknown."""
        return self._seconds

    def can_read(self, sequence: Sequence) -> bool:
        """Whether it knows what all of the sequence's places are: it sees no pictures."""
        return not self._broken and not sequence.tiles

    def guess(self, sequences: list[Sequence], most: list[int]) -> list[ModelGuess]:
        """Up to `most` tokens for each sequence; none while its prompt is still being read."""
        guesses = [ModelGuess() for _ in sequences]
        self._at_work = {sequence.id for sequence in sequences}
        try:
            tips = self._read(sequences)
            n_round = 0
            while tips:
                rows = self._choose(tips)
                again = []
                for index, (token, sure) in rows.items():
                    guess = guesses[index]
                    if sure >= LEAST_SURE:
                        guess.tokens.append(token)
                        guess.sure.append(sure)
                        if n_round + 1 < most[index]:
                            again.append(index)
                n_round += 1
                tips = self._extend(sequences, {index: guesses[index].tokens[-1] for index in again})
        except EngineError as error:
            # An answer needs no guess.
            _log.warning("the draft model is given up: %s", error.message)
            self._broken = True
            return [ModelGuess() for _ in sequences]
        return guesses

    def end(self, sequence: Sequence) -> None:
        """The sequence is over. What was read stays for the next one that begins like it."""
        for slot in self._slots:
            if slot.request_id == sequence.id:
                slot.request_id = None

    def close(self) -> None:
        self._context.close()
        self._model.close()

    def _read(self, sequences: list[Sequence]) -> dict[int, int]:
        """Read what is new in the sequences, as much as goes; the batch index of the end of each that is read."""
        self._batch.clear()
        room, tips = self._batch.capacity, {}
        # The shortest first: those who are almost through are not to wait for a long prompt.
        slots = [self._slot(sequence) for sequence in sequences]
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].keys) - len(slots[index].keys))
        for index in order:
            slot, keys = slots[index], sequences[index].keys
            known = min(_agreed(slot.keys, keys), len(keys) - 1)
            if known < len(slot.keys):
                self._context.remove(slot.number, known)
                del slot.keys[known:]
            part = keys[known : known + room]
            if not part or max(part) >= self._model.vocab.n_tokens:
                continue
            whole = known + len(part) == len(keys)
            row = self._batch.add(part, known, slot.number, int(whole))
            slot.keys += part
            room -= len(part)
            if whole:
                tips[index] = row
        if self._batch.count:
            self._decode()
        return tips

    def _extend(self, sequences: list[Sequence], tokens: dict[int, int]) -> dict[int, int]:
        """Read a guessed token of some sequences; their batch indices."""
        if not tokens:
            return {}
        self._batch.clear()
        tips = {}
        for index, token in tokens.items():
            slot = self._slot(sequences[index])
            tips[index] = self._batch.add([token], len(slot.keys), slot.number, 1)
            slot.keys.append(token)
        began = time.perf_counter()
        self._decode()
        seconds = time.perf_counter() - began
        self._seconds = 0.8 * self._seconds + 0.2 * seconds if self._seconds else seconds
        return tips

    def _choose(self, tips: dict[int, int]) -> dict[int, tuple[int, float]]:
        """The most likely token at each place, and how likely it is."""
        chosen = {}
        for index, row in tips.items():
            logits = self._context.logits(row)[: self._n_tokens]
            token = int(logits.argmax())
            chosen[index] = token, float(1.0 / np.exp(logits - logits[token]).sum())
        return chosen

    def _decode(self) -> None:
        try:
            self._context.decode(self._batch)
        except CacheFull:
            for slot in self._slots:
                if slot.request_id is None and slot.keys:
                    self._context.remove(slot.number)
                    slot.keys = []
            self._context.decode(self._batch)

    def _slot(self, sequence: Sequence) -> _Slot:
        """The sequence's slot; for a new one a free slot, that which holds most of its beginning.

        Requests that wait because others took their place in the cache lose their slots last.
        """
        for slot in self._slots:
            if slot.request_id == sequence.id:
                return slot
        free = [slot for slot in self._slots if slot.request_id not in self._at_work]
        # What it has read is the same for all adapters of the model that it helps.
        keys = np.array(sequence.keys, np.int64)
        chosen = max(free, key=lambda s: (s.request_id is None, common_prefix(np.array(s.keys, np.int64), keys)))
        chosen.request_id = sequence.id
        return chosen


def check_vocabulary(path: Path, draft: Vocab, target: Vocab) -> None:
    """LoadError unless the tokens of both vocabularies are the same, but for what fills up one of them."""
    if abs(draft.n_tokens - target.n_tokens) > MOST_PADDING:
        raise LoadError(
            f"the draft model {path} has {draft.n_tokens} tokens, the model has {target.n_tokens}: a draft model has "
            "the same vocabulary; give a smaller model of the same family"
        )
    different = draft.first_difference(target)
    if different is not None:
        raise LoadError(
            f"the draft model {path} has another vocabulary: its token {different} is {draft.text(different)!r}, the "
            f"model's is {target.text(different)!r}; give a smaller model of the same family"
        )


def _agreed(read: list[int], keys: list[int]) -> int:
    """How many ids at the start agree; most often almost all do."""
    length = min(len(read), len(keys))
    if read[:length] == keys[:length]:
        return length
    return next(place for place in range(length) if read[place] != keys[place])
