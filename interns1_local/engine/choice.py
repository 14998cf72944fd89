"""The choice of a token from a row of logits: penalties, bias, guide, then the most likely one or the sampler's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from interns1_local.engine.backend_sampling import BackendSampling
from interns1_local.engine.context_shift import cut_range
from interns1_local.engine.guide import Guide
from interns1_local.engine.llama import Context, EngineError
from interns1_local.engine.plan import Span
from interns1_local.engine.requests import EngineRequest
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import (
    Logits,
    SampledToken,
    apply_bias,
    apply_penalties,
    describe,
    log_probabilities,
)
from interns1_local.engine.sequence import Sequence
from interns1_local.errors import BadRequest, InternS1Error


@dataclass(frozen=True, slots=True)
class Choice:
    """What came next: a token, or the end, or a token that is the last. `finish` or `error` is set at the end."""

    token: int | None = None
    described: tuple[SampledToken, ...] = ()
    finish: str | None = None
    error: InternS1Error | None = None

    @property
    def ends(self) -> bool:
        return self.finish is not None or self.error is not None


class TokenChooser:
    """Chooses for all requests of one context, each with its sampler and its guide."""

    def __init__(self, context: Context, n_ctx: int, backend: BackendSampling | None = None) -> None:
        self._context = context
        self._backend = backend
        self._n_ctx = n_ctx
        self._eog_ids = context.model.vocab.eog_ids
        self._eog = np.array(sorted(self._eog_ids), np.int64)
        self._chains: dict[int, SamplerChain] = {}
        self._guides: dict[int, Guide] = {}
        # Requests whose tokens the graph chooses.
        self._in_graph: set[int] = set()

    def start(self, request: EngineRequest, n_at_work: int) -> bool:
        """Take a request in, which is one of `n_at_work`. True where the graph chooses; nothing is guessed then."""
        sampling = request.sampling
        if request.guide is not None:
            self._guides[request.id] = request.guide
        if self._backend is not None and self._backend.takes(request, n_at_work):
            self._in_graph.add(request.id)
        if not sampling.greedy or request.id in self._in_graph:
            seed = int.from_bytes(os.urandom(4), "little") if sampling.seed is None else sampling.seed
            self._chains[request.id] = SamplerChain(sampling, seed)
        return request.id in self._in_graph

    def prepare(self, spans: Iterable[Span]) -> None:
        """Put the samplers that choose after `spans` into the graph that computes them."""
        if self._backend is None:
            return
        for span in spans:
            chooses = span.samples and span.sequence.id in self._in_graph
            self._backend.place(span.sequence.slot, self._chains[span.sequence.id] if chooses else None)

    def guide(self, request_id: int) -> Guide | None:
        return self._guides.get(request_id)

    def upcoming(self, sequence: Sequence) -> list[int]:
        """Tokens that the sequence's guide all but forces to come next."""
        guide = self._guides.get(sequence.id)
        return [] if guide is None else guide.upcoming()

    def end(self, request_id: int) -> None:
        """Forget a request."""
        self._guides.pop(request_id, None)
        self._in_graph.discard(request_id)
        chain = self._chains.pop(request_id, None)
        if chain is not None:
            if self._backend is not None:
                self._backend.take_back(chain)
            chain.close()

    def close(self) -> None:
        for request_id in list(self._chains):
            self.end(request_id)

    def choose(self, sequence: Sequence, row: int) -> Choice:
        """Choose the next token of `sequence` from the logits at batch index `row`, and append it to its keys."""
        if sequence.max_tokens == 0:
            return Choice(finish="length")
        if self._backend is not None and sequence.id in self._in_graph:
            chain = self._chains[sequence.id]
            if self._backend.holds(sequence.slot, chain):
                return self._take_chosen(sequence, row, chain, self._backend)
        sampling = sequence.sampling
        logits = self._context.logits(row)
        # The first of the greatest; where there is a NaN, that.
        best = int(logits.argmax())
        if not math.isfinite(logits[best]):
            return Choice(error=_not_a_number())
        logprobs = None if sampling.logprobs is None else log_probabilities(logits)
        guide = self._guides.get(sequence.id)
        forbids = sampling.forbids_ends(sequence.n_output)
        if sampling.moves_logits or forbids:
            apply_penalties(logits, sampling, sequence.keys, self._n_ctx)
            apply_bias(logits, sampling, self._eog, sequence.n_output)
        # To forbid ends changes nothing about another token's being the greatest.
        changed = sampling.moves_logits or (forbids and best in self._eog_ids)
        try:
            token = self._next_token(sequence, row, logits, guide, None if changed else best)
        except BadRequest as error:
            return Choice(error=error)
        if token is None:
            return Choice(finish="stop")
        sequence.keys.append(token)
        described = () if logprobs is None else (describe(logprobs, token, sampling.logprobs or 0),)
        if guide is not None and guide.finished:
            return Choice(token, described, "stop")
        if self._is_full(sequence) or (guide is not None and guide.cut):
            return Choice(token, described, "length")
        return Choice(token, described)

    def _take_chosen(self, sequence: Sequence, row: int, chain: SamplerChain, backend: BackendSampling) -> Choice:
        """The token that the graph chose at batch index `row`."""
        token = self._context.sample(chain, row)
        if not math.isfinite(backend.best(row)):
            return Choice(error=_not_a_number())
        if token in self._eog_ids:
            return Choice(finish="stop")
        sequence.keys.append(token)
        return Choice(token, finish="length" if self._is_full(sequence) else None)

    def _is_full(self, sequence: Sequence) -> bool:
        if sequence.n_output >= sequence.max_tokens:
            return True
        return len(sequence.keys) >= self._n_ctx and cut_range(sequence) is None

    def _next_token(
        self, sequence: Sequence, row: int, logits: Logits, guide: Guide | None, best: int | None
    ) -> int | None:
        """The token to come next; None is the end. `logits` are those of `row`, changed in place; `best` is the
        greatest of them where nothing has changed them."""
        token = None if guide is None else guide.forced()
        if token is None:
            chain = self._chains.get(sequence.id)
            if guide is not None:
                guide.restrict(logits)
            if guide is not None or (best is None and chain is None):
                best = int(logits.argmax())
                if guide is not None and logits[best] == -np.inf:
                    guide.check_end()
                    return None
            token = self._context.sample(chain, row) if chain is not None else best
            if token in self._eog_ids and not sequence.sampling.ignore_eos:
                token = None if guide is None else guide.instead_of_end()
        if guide is not None and token is not None:
            guide.accept(token)
        return token


def _not_a_number() -> EngineError:
    return EngineError("the model's output is not a number: the file may be damaged, or its type too coarse")
