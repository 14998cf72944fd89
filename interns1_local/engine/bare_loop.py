"""llama.cpp's own speed on a file: a process with nothing in it but calls of `llama_decode`.

`python -m interns1_local.engine.bare_loop MODEL THREADS TOKENS` loads the model with llama.cpp's defaults and a context
of TOKENS tokens. Each line of its input, `prefill N` or `decode N`, is answered with the seconds that it took.
"""

from __future__ import annotations

import ctypes
import random
import sys
import time
from pathlib import Path

from interns1_local.engine.llama import EngineError, Model
from interns1_local.engine.native import llama_cpp


class BareLoop:
    """A loaded model and a context that is emptied before each measure."""

    def __init__(self, path: Path, n_threads: int, n_ctx: int) -> None:
        self._model = Model(path)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model.pointer, params)
        if not self._context:
            raise EngineError(f"llama.cpp can make no context of {n_ctx} tokens")
        self._n_batch = int(llama_cpp.llama_n_batch(self._context))
        self.prefill(8)
        self.decode(2)

    def prefill(self, count: int) -> float:
        """Seconds for a prompt of `count` random tokens, in batches as large as llama.cpp takes them."""
        ids = random.choices(range(self._model.vocab.n_tokens), k=count)
        return self._run([ids[at : at + self._n_batch] for at in range(0, count, self._n_batch)])

    def decode(self, count: int) -> float:
        """Seconds for `count` tokens, one a call."""
        return self._run([[token] for token in random.choices(range(self._model.vocab.n_tokens), k=count)])

    def _run(self, calls: list[list[int]]) -> float:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        arrays = [(ctypes.c_int32 * len(ids))(*ids) for ids in calls]
        batches = [llama_cpp.llama_batch_get_one(array, len(array)) for array in arrays]
        began = time.perf_counter()
        for batch in batches:
            code = llama_cpp.llama_decode(self._context, batch)
            if code != 0:
                raise EngineError(f"llama.cpp could not compute a batch of {batch.n_tokens} tokens (code {code})")
        llama_cpp.llama_synchronize(self._context)
        return time.perf_counter() - began


def main(arguments: list[str]) -> None:
    path, n_threads, n_ctx = arguments
    loop = BareLoop(Path(path), int(n_threads), int(n_ctx))
    measures = {"prefill": loop.prefill, "decode": loop.decode}
    for line in sys.stdin:
        kind, count = line.split()
        print(measures[kind](int(count)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
