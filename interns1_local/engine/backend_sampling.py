"""Sampling where the output is computed, as a part of llama.cpp's graph: a token comes back, and no row of logits.

It is worth its while on GPUs that serve many: the rows need not be copied, and one processor need not go through all
of them. For a single request it is no faster, and on a processor it is slower. llama.cpp calls it experimental.
"""

from __future__ import annotations

import numpy as np

from interns1_local.engine.devices import has_local_gpu
from interns1_local.engine.llama import Context
from interns1_local.engine.native import llama_cpp
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.requests import EngineRequest
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import least_for_graph

# More candidates than these are not worth copying, and some devices sort no more.
MOST_CANDIDATES = 1024


class BackendSampling:
    """Which sequence numbers of a context have a sampler in its graph.

    A chain that was attached must never be attached again or sample by itself (C aborts), so it leaves as a copy.
    """

    def __init__(self, context: Context, least: int) -> None:
        """Requests are taken that come when `least` are at work, themselves among them."""
        self._context = context
        self._least = least
        self._attached: dict[int, SamplerChain] = {}

    def takes(self, request: EngineRequest, n_at_work: int) -> bool:
        """Whether the graph can choose for `request`: nobody else may need its logits, or change them.

        Who asks for guesses gets them: the graph chooses for one place of a sequence only.
        """
        sampling = request.sampling
        if n_at_work < self._least or request.guide is not None or request.prompt_logprobs:
            return False
        if request.speculation.mode not in ("auto", "off"):
            return False
        if sampling.logprobs is not None or sampling.moves_logits or sampling.ignore_eos or sampling.min_tokens:
            return False
        if sampling.greedy:
            return True
        # What a seed comes to depends on the order of the candidates, which graphs sort only for top_p.
        return 0 < sampling.top_k <= MOST_CANDIDATES and (sampling.seed is None or 0 < sampling.top_p < 1)

    def place(self, slot: int, chain: SamplerChain | None) -> None:
        """Let `chain` choose what follows sequence `slot` from the next decode on; None: no chain."""
        if self._attached.get(slot) is chain:
            return
        self._detach(slot)
        if chain is None:
            return
        self.take_back(chain)
        self._context.check_sequences([slot])
        # Where llama.cpp cannot, the chain goes on choosing for itself.
        if llama_cpp.llama_set_sampler(self._context.pointer, slot, chain.pointer):
            self._attached[slot] = chain

    def holds(self, slot: int, chain: SamplerChain) -> bool:
        return self._attached.get(slot) is chain

    def take_back(self, chain: SamplerChain) -> None:
        """Let `chain` choose for itself again."""
        for slot in [slot for slot, other in self._attached.items() if other is chain]:
            self._detach(slot)

    def best(self, row: int) -> float:
        """The greatest logit among the candidates of batch index `row`, for which a chain of the graph has chosen."""
        pointer = llama_cpp.llama_get_sampled_logits_ith(self._context.pointer, row)
        count = int(llama_cpp.llama_get_sampled_logits_count_ith(self._context.pointer, row))
        return float(np.ctypeslib.as_array(pointer, (count,)).max()) if pointer and count else float("nan")

    def _detach(self, slot: int) -> None:
        chain = self._attached.pop(slot, None)
        if chain is not None:
            llama_cpp.llama_set_sampler(self._context.pointer, slot, None)
            chain.renew()


def backend_sampling(context: Context, options: EngineOptions) -> BackendSampling | None:
    """As `options` say; None when no request is to be sampled in the graph."""
    # The output counts as one more layer.
    n_layers = int(llama_cpp.llama_model_n_layer(context.model.pointer)) + 1
    on_gpu = not 0 <= options.offload.n_gpu_layers < n_layers and options.shares is None and has_local_gpu()
    least = least_for_graph(options.backend_sampling, options.n_seq_max, on_gpu)
    return None if least is None else BackendSampling(context, least)
