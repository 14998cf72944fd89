"""llama.cpp's samplers as a chain: how a token is drawn from logits, in C."""

from __future__ import annotations

from typing import Any

from interns1_local.engine.native import llama_cpp
from interns1_local.engine.sampling import MAX_SEED, SamplingParams


class SamplerChain:
    """llama.cpp's own samplers for one request, with a random state of their own."""

    def __init__(self, params: SamplingParams, seed: int) -> None:
        self.pointer = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in self._samplers(params):
            llama_cpp.llama_sampler_chain_add(self.pointer, sampler)
        # The chain must end in one that chooses: without, C aborts.
        llama_cpp.llama_sampler_chain_add(self.pointer, llama_cpp.llama_sampler_init_dist(seed % (MAX_SEED + 1)))

    @staticmethod
    def _samplers(params: SamplingParams) -> list[Any]:
        if params.greedy:
            return [llama_cpp.llama_sampler_init_top_k(1)]
        samplers = []
        if params.top_k > 0:
            samplers.append(llama_cpp.llama_sampler_init_top_k(min(params.top_k, 2**31 - 1)))
        if 0 < params.typical_p < 1:
            samplers.append(llama_cpp.llama_sampler_init_typical(params.typical_p, 1))
        if params.top_p < 1:
            samplers.append(llama_cpp.llama_sampler_init_top_p(max(params.top_p, 0.0), 1))
        if params.min_p > 0:
            samplers.append(llama_cpp.llama_sampler_init_min_p(min(params.min_p, 1.0), 1))
        samplers.append(llama_cpp.llama_sampler_init_temp(params.temperature))
        return samplers

    def renew(self) -> None:
        """Become a copy of itself, in the same random state, that was in no graph."""
        used, self.pointer = self.pointer, llama_cpp.llama_sampler_clone(self.pointer)
        llama_cpp.llama_sampler_free(used)

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_sampler_free(self.pointer)
            self.pointer = None
