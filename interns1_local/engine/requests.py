"""What an engine is asked for, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from interns1_local.engine.adaptation import FIRST, Adaptation
from interns1_local.engine.guide import Guide
from interns1_local.engine.sampling import SampledToken, SamplingParams
from interns1_local.engine.sequence import Prompt
from interns1_local.engine.speculative import SPECULATE, Speculation
from interns1_local.errors import InternS1Error


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A prompt of token ids and tiles. `max_tokens` None means up to the end of the context.

    `prompt_logprobs`: the prompt's own tokens are reported as well.
    """

    id: int
    prompt: Prompt
    sampling: SamplingParams
    max_tokens: int | None = None
    guide: Guide | None = None
    prompt_logprobs: bool = False
    speculation: Speculation = SPECULATE
    # When the context is full: how much of the beginning stays, -1 the prompt, as the older part goes; None: it ends.
    keep: int | None = None
    adaptation: Adaptation = FIRST


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request cost; prompt seconds start when its computation does, not while it waits."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    prompt_seconds: float
    decode_seconds: float
    thought_tokens: int = 0
    # Tiles that went through the vision tower; others were remembered, or already in the context.
    tiles_computed: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepOutput:
    """New tokens of one request. At its end either `finish` ("stop", "length", "cancelled") or `error` is set."""

    request_id: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[SampledToken, ...] = ()
    finish: str | None = None
    error: InternS1Error | None = None
    usage: Usage | None = None
    # Of the prompt: its tokens, and how many of them were cached. A reader that stops early needs no last output.
    prompt: tuple[int, int] = (0, 0)
    # Tokens guessed ahead so far, and how many of them came true.
    drafts: tuple[int, int] = (0, 0)
    # The prompt's own tokens, with the first output of a request that asked for them.
    prompt_logprobs: tuple[SampledToken, ...] = ()
