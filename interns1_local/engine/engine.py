"""The engine: requests go in, each step computes one batch for all of them and gives back the tokens it chose."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from interns1_local.engine import cache_state, prompt_scores, stored_prefixes
from interns1_local.engine.adapter_turns import AdapterTurns
from interns1_local.engine.backend import start_backend
from interns1_local.engine.backend_sampling import backend_sampling
from interns1_local.engine.choice import Choice, TokenChooser
from interns1_local.engine.context_shift import cut_range
from interns1_local.engine.draft_model import DraftModel
from interns1_local.engine.llama import MAX_SEQUENCES, Aborted, Batch, CacheFull, Context, EngineError, Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import Offload
from interns1_local.engine.options import DEFAULTS, EngineOptions
from interns1_local.engine.pace import Pace
from interns1_local.engine.plan import Limits, Operation, Plan, Span
from interns1_local.engine.requests import EngineRequest, StepOutput, Usage
from interns1_local.engine.sampling import SampledToken, check_bias
from interns1_local.engine.scheduler import Scheduler
from interns1_local.engine.sequence import Sequence, Tile
from interns1_local.engine.speculative import Speculator
from interns1_local.engine.stored_prefixes import SHORTEST_STORED, StoredPrefixes
from interns1_local.engine.tower import Tower, turns_for
from interns1_local.engine.vision_thread import VisionThread, upcoming
from interns1_local.errors import BadRequest, ContextOverflow, InternS1Error, Unsupported

__all__ = ["Engine", "EngineOptions", "EngineRequest", "StepOutput", "Usage"]

# Finished sequences whose cells stay for later prompts, besides the sequences at work.
CACHED_SEQUENCES = 24
SMALLEST_CACHE = 256
STEP_SECONDS = 0.2
# An answer that nothing else bounds ends after so many contexts, as Ollama's do.
MOST_CONTEXTS = 10
# A cancelled request stops a running computation only when it has more than this in it: shorter ones are soon over.
LONG_SPAN = 16


class Engine:
    """One loaded model. `step` belongs to one thread; `add_request` and `abort` may be called from any."""

    def __init__(
        self,
        model_path: Path,
        mmproj_path: Path | None = None,
        options: EngineOptions = DEFAULTS,
        on_progress: Callable[[float], None] | None = None,
        open_vision: Callable[..., VisionEncoder] = VisionEncoder,
    ) -> None:
        """`open_vision` takes the arguments of VisionEncoder."""
        self.options = options
        self.vision, self._tiles, self._turns, self._tower = None, None, None, None
        start_backend()
        if mmproj_path is not None:
            self._turns = turns_for(options)
            self._tower = Tower(model_path, mmproj_path, options, self._turns, open_vision)
        try:
            n_batch, n_slots = self._load(model_path, on_progress)
            if self._tower is not None:
                self.vision = self._tower.result(self.model)
        except BaseException:
            if self._tower is not None:
                self._tower.close()
            raise
        self.n_ctx = options.n_ctx
        # Set by whatever a step may wait for.
        self._news = threading.Event()
        self._interrupted = False
        if self.vision is not None:
            self._tiles = VisionThread(self.vision, self._news.set, self._turns)
        share = options.share_prefixes and not self.model.is_recurrent
        files = None if not share else stored_prefixes.open_files(self.context, model_path, mmproj_path, options)
        least = SHORTEST_STORED if files else 0
        tail = share, self.context.n_outputs, least, cache_state.can_shift(self.context), self.context.tile_rows
        limits = Limits(self.context.n_ctx, n_slots, options.n_seq_max, n_batch, *tail)
        can_share = partial(cache_state.holds_beginning, self.context)
        turns = AdapterTurns() if self.model.adapters else None
        self._scheduler = Scheduler(limits, can_share, self._tiles.has if self._tiles else lambda tile: False, turns)
        self._stored = StoredPrefixes(self.context, self._scheduler, self._apply, files) if files else None
        self._pace = Pace(n_batch, STEP_SECONDS)
        self._batch = Batch(n_batch)
        self._chooser = TokenChooser(self.context, self.n_ctx, backend_sampling(self.context, options))
        self._draft_model = self._load_draft_model() if options.draft_path is not None else None
        self._speculator = Speculator(self.model.vocab.eog_ids, self.n_ctx, limits.n_outputs, self._draft_model)
        self._sequences: dict[int, Sequence] = {}
        self._arrivals: deque[EngineRequest] = deque()
        self._cancelled: set[int] = set()
        self._long_spans: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    def _load(self, model_path: Path, on_progress: Callable[[float], None] | None) -> tuple[int, int]:
        """The model and its context; how many tokens a batch and how many sequences the cache may have."""
        options = self.options
        self.model = Model(model_path, options.offload, on_progress, options.adapter_paths, options.shares)
        n_slots = min(options.n_seq_max + CACHED_SEQUENCES, MAX_SEQUENCES)
        n_cells = max(options.n_ctx, options.n_cells, SMALLEST_CACHE)
        # llama.cpp sets aside an output for every sequence number, so a batch has room for as many.
        n_batch = min(max(options.n_batch, n_slots), n_cells)
        sizes = n_cells, n_batch, n_slots, options.n_threads, options.kv_type
        base, flash = options.rope_freq_base, options.flash_attention
        with ThreadPoolExecutor(1) as beside:
            # To find the ends in a large vocabulary takes as long as to make a context.
            beside.submit(getattr, self.model.vocab, "eog_ids")
            self.context = Context(self.model, *sizes, rope_freq_base=base, flash_attention=flash)
        return n_batch, n_slots

    @property
    def has_work(self) -> bool:
        return bool(self._arrivals or self._sequences or self._cancelled)

    def tile(self, pixels: np.ndarray, n_tokens: int) -> Tile:
        """A tile for a prompt; Unsupported when the model has no vision file."""
        if self.vision is None:
            raise Unsupported("image input is not supported by this model: it has no vision file (mmproj)")
        return Tile.of(pixels, n_tokens)

    def add_request(self, request: EngineRequest) -> None:
        """Take a request in. Raises ContextOverflow or BadRequest; then it was not taken."""
        n_prompt = sum(part.n_tokens if isinstance(part, Tile) else 1 for part in request.prompt)
        if n_prompt == 0:
            raise BadRequest("the prompt is empty: it has no tokens")
        if n_prompt >= self.n_ctx:
            raise ContextOverflow(
                f"request ({n_prompt} tokens) exceeds the available context size ({self.n_ctx} tokens), "
                "try increasing it"
            )
        self.model.vocab.check([part for part in request.prompt if not isinstance(part, Tile)])
        check_bias(request.sampling, self.model.vocab.n_tokens)
        self.model.adapters.root(request.adaptation)
        if request.prompt_logprobs and any(isinstance(part, Tile) for part in request.prompt):
            raise BadRequest("log-probabilities of a prompt with pictures are not supported; leave one of them out")
        if self.vision is None and any(isinstance(part, Tile) for part in request.prompt):
            raise Unsupported("image input is not supported by this model: it has no vision file (mmproj)")
        with self._lock:
            self._arrivals.append(request)
        self._news.set()

    def abort(self, request_id: int) -> None:
        """Cancel a request; its last output says "cancelled". A long computation with it is stopped at once."""
        with self._lock:
            self._cancelled.add(request_id)
            if request_id in self._long_spans:
                self.context.abort()
        self._news.set()

    def interrupt(self) -> None:
        """Let the step at hand end soon. Nothing but `store_prefixes` and `close` may follow it."""
        self._interrupted = True
        self.context.abort()
        self._news.set()

    def step(self) -> list[StepOutput]:
        """Compute one batch. Gives the new tokens, and the ends of requests.

        Where all wait for tiles that are in the vision tower, it sleeps until one is done, a request comes or goes.
        """
        self._news.clear()
        outputs = self._take_in() + self._end_unreadable()
        if not self._scheduler.has_work:
            return outputs
        if self._stored is not None:
            self._stored.restore()
        self._speculator.draft(self._scheduler.decoding, self._chooser.upcoming)
        plan = self._scheduler.schedule(self._pace.prefill_budget)
        self._apply(plan.operations)
        for sequence in plan.admitted:
            sequence.admitted_at = time.perf_counter()
        self._announce(plan)
        if self._tiles is not None:
            self._tiles.want(upcoming(self._scheduler.running))
        if plan.computes:
            if self.model.adapters:
                self.context.adapt(plan.root)
            with self._turns.step() if self._turns is not None else nullcontext():
                if plan.spans:
                    outputs += self._compute(plan.spans, None)
                if plan.image is not None:
                    outputs += self._compute_image(plan.image)
        with self._lock:
            self._long_spans = frozenset()
            self.context.abort(False)
        self._apply(self._scheduler.take_operations())
        if plan.awaits_tile and not (plan.computes or outputs or self._interrupted):
            self._news.wait()
        return outputs

    def store_prefixes(self, seconds: float) -> None:
        """Write what is in the cache to files, where options say so, for `seconds` or so. Nothing may follow."""
        if self._stored is not None:
            self._stored.store_all(seconds)

    def close(self) -> None:
        """Free everything, in the order that C needs, after the tile that is in the vision tower."""
        if self._tiles is not None:
            self._tiles.close()
        self._chooser.close()
        if self._draft_model is not None:
            self._draft_model.close()
        if self._tower is not None:
            self._tower.close()
        self.context.close()
        self.model.close()

    def _load_draft_model(self) -> DraftModel:
        options = self.options
        assert options.draft_path is not None
        offload = Offload(0 if options.shares else options.offload.n_gpu_layers, options.offload.use_mmap)
        sizes = self.context.n_ctx, options.n_seq_max, options.n_threads
        return DraftModel(options.draft_path, self.model.vocab, *sizes, offload, options.kv_type)

    def _take_in(self) -> list[StepOutput]:
        """Start what has arrived, end what was cancelled."""
        with self._lock:
            arrivals, cancelled = list(self._arrivals), self._cancelled
            self._arrivals.clear()
            self._cancelled = set()
        for request in arrivals:
            self._start(request)
        outputs = []
        for request_id in cancelled:
            sequence = self._sequences.get(request_id)
            if sequence is not None:
                outputs.append(self._end(sequence, "cancelled"))
        return outputs

    def _end_unreadable(self) -> list[StepOutput]:
        """End the requests that need a tile which the tower could not read."""
        if self._tiles is None:
            return []
        outputs = []
        for sequence in tuple(self._scheduler.running):
            error = next((e for tile in upcoming([sequence]) if (e := self._tiles.error(tile))), None)
            if error is not None:
                outputs.append(self._end(sequence, None, error))
        return outputs

    def _start(self, request: EngineRequest) -> None:
        most = self.n_ctx if request.keep is None else MOST_CONTEXTS * self.n_ctx
        limit = most if request.max_tokens is None else max(request.max_tokens, 0)
        sequence = Sequence.start(request.id, request.prompt, request.sampling, limit)
        sequence.keep = request.keep
        sequence.root = self.model.adapters.root(request.adaptation)
        if request.prompt_logprobs:
            prompt_scores.start(sequence)
        self._sequences[request.id] = sequence
        if not self._chooser.start(request, len(self._sequences)):
            self._speculator.start(sequence, request.speculation)
        self._scheduler.add(sequence)

    def _apply(self, operations: list[Operation]) -> None:
        cache_state.apply(self.context, operations, self._stored.store if self._stored else None)

    def _announce(self, plan: Plan) -> None:
        """Let `abort` know whose cancelling is worth stopping this step for."""
        spans = [*plan.spans, plan.image] if plan.image else plan.spans
        with self._lock:
            self._long_spans = frozenset(s.sequence.id for s in spans if s.stop - s.start > LONG_SPAN)
            if self._long_spans & self._cancelled:
                self.context.abort()

    def _compute_image(self, span: Span) -> list[StepOutput]:
        assert span.tile is not None and self._tiles is not None
        if span.sequence.slot < 0:
            # It had to make room for others since this step was planned.
            self._scheduler.roll_back(span)
            return []
        rows, computed = self._tiles.take(span.tile.tile)
        span.sequence.tiles_computed += computed
        offset = span.tile.start
        return self._compute([span], rows[span.start - offset : span.stop - offset])

    def _compute(self, spans: list[Span], embeddings: np.ndarray | None) -> list[StepOutput]:
        self._batch.clear()
        rows = []
        sampling = [span.samples for span in spans]
        for span, samples in zip(spans, sampling, strict=True):
            # Where embeddings are given, the tokens are not read.
            ids = span.ids if embeddings is None else [0] * (span.stop - span.start)
            outputs = 1 + len(span.drafted) if samples else 0
            rows.append(self._batch.add(ids, span.start, span.sequence.slot, outputs))
            if span.sequence.scores_prompt:
                prompt_scores.want_outputs(self._batch, span, rows[-1])
        self._chooser.prepare(spans)
        began = time.perf_counter()
        try:
            self.context.decode(self._batch, embeddings)
        except EngineError as error:
            return self._undo(spans, error)
        seconds = time.perf_counter() - began
        if all(sampling):
            self._speculator.observe(self._batch.count, seconds)
        if all(span.decodes for span in spans):
            self._pace.observe_decode(seconds)
        else:
            self._pace.observe_prompt(self._batch.count, seconds)
        chosen = []
        for span, row, samples in zip(spans, rows, sampling, strict=True):
            if span.sequence.scores_prompt:
                prompt_scores.note(span, row, self.context.logits)
            if samples:
                chosen += self._continue(span, row)
            else:
                self._scheduler.complete(span)
        return chosen

    def _undo(self, spans: list[Span], error: EngineError) -> list[StepOutput]:
        """Nothing of a batch counts. An abort is tried again without the cancelled; an error ends its requests."""
        for span in spans:
            self._scheduler.roll_back(span)
            self.context.remove(span.sequence.slot, span.start)
        if isinstance(error, Aborted):
            return []
        if isinstance(error, CacheFull) and self._scheduler.preempt_latest():
            return []
        return [self._end(span.sequence, None, error) for span in spans]

    def _continue(self, span: Span, row: int) -> list[StepOutput]:
        """Choose the tokens that follow the computed `span`, whose last batch index is `row`.

        A drafted token is kept when it is the one that is chosen at its place; with the first that is not, or at the
        end, the rest is taken back out of the cache.
        """
        sequence = span.sequence
        if sequence.first_token_at is None:
            sequence.first_token_at = time.perf_counter()
        choices: list[Choice] = []
        for ahead in range(len(span.drafted), -1, -1):
            choices.append(self._chooser.choose(sequence, row - ahead))
            if choices[-1].ends or not ahead or choices[-1].token != span.drafted[-ahead]:
                break
        stop = span.stop - len(span.drafted) + len(choices) - 1
        self._scheduler.complete(span, stop)
        if span.drafted:
            if stop < span.stop:
                self.context.remove(sequence.slot, stop)
            self._speculator.judge(sequence, len(span.drafted), len(choices) - 1)
        if len(sequence.keys) >= self.n_ctx and not choices[-1].ends and (places := cut_range(sequence)):
            # What was indexed to guess from has moved.
            self._speculator.end(sequence)
            self._scheduler.cut(sequence, *places)
        outputs = [self._output(sequence, choice) for choice in choices]
        if sequence.scores_prompt:
            outputs[0] = replace(outputs[0], prompt_logprobs=prompt_scores.take(sequence))
        return outputs

    def _output(self, sequence: Sequence, choice: Choice) -> StepOutput:
        token_ids = () if choice.token is None else (choice.token,)
        if choice.ends:
            return self._end(sequence, choice.finish, choice.error, token_ids, choice.described)
        prompt = sequence.n_prompt, sequence.cached_tokens
        drafts = sequence.n_drafted, sequence.n_accepted
        return StepOutput(sequence.id, token_ids, choice.described, prompt=prompt, drafts=drafts)

    def _end(
        self,
        sequence: Sequence,
        finish: str | None,
        error: InternS1Error | None = None,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[SampledToken, ...] = (),
    ) -> StepOutput:
        now = time.perf_counter()
        admitted = sequence.admitted_at if sequence.admitted_at is not None else now
        first = sequence.first_token_at if sequence.first_token_at is not None else now
        guide = self._chooser.guide(sequence.id)
        usage = Usage(
            sequence.n_prompt, sequence.cached_tokens, sequence.n_output, first - admitted, now - first,
            guide.thought_tokens if guide else 0, sequence.tiles_computed, sequence.n_drafted, sequence.n_accepted,
        )  # fmt: skip
        self._scheduler.finish(sequence, keep=error is None)
        self._apply(self._scheduler.take_operations())
        del self._sequences[sequence.id]
        self._chooser.end(sequence.id)
        self._speculator.end(sequence)
        return StepOutput(sequence.id, token_ids, logprobs, finish, error, usage)
