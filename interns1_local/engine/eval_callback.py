"""A Python function as llama.cpp's eval callback, which looks at the nodes of a computation while it runs."""

from __future__ import annotations

from collections.abc import Callable

from interns1_local.engine.native import llama_cpp

# Gets the address of a ggml_tensor; asked first (True) whether it wants to see that node once it is computed (False).
Observer = Callable[[int, bool], bool]


class EvalCallback:
    """`native` is what C calls. C knows no exceptions: one is kept, `stop` is called, `take_error` gives it back."""

    def __init__(self, observer: Observer, stop: Callable[[], None]) -> None:
        self._error: BaseException | None = None

        def callback(tensor: int, ask: bool, _data: int | None) -> bool:
            if self._error is not None:
                return False
            try:
                return observer(tensor, ask)
            except BaseException as error:
                self._error = error
                stop()
                return False

        self.native = llama_cpp.ggml_backend_sched_eval_callback(callback)

    def take_error(self) -> BaseException | None:
        """What the observer raised since the last call."""
        error, self._error = self._error, None
        return error
