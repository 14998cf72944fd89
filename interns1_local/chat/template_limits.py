"""What rendering one chat template may cost. Templates come with model files: hostile until rendered."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

MAX_OUTPUT = 32_000_000
MAX_MADE = 1_000_000_000
MAX_SECONDS = 10.0

# Methods of strings and filters whose result can be far longer than what they are given.
WIDENING = ("center", "expandtabs", "indent", "ljust", "rjust", "zfill")
MAX_WIDTH = 10_000


class Limits(threading.local):
    """Of one rendering, which stays in its thread: computing time of the thread, and characters and items made."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._made = 0
        self._deadline = time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        """Once a turn of a loop, a call of a macro, a function or a filter."""
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:.0f} seconds")

    def make(self, size: int) -> None:
        """Before `size` characters or items are put together."""
        self._made += size
        if size > MAX_OUTPUT or self._made > MAX_MADE:
            raise SecurityError(f"it makes a text or list of more than {MAX_OUTPUT} characters or items")


limits = Limits()


def join(parts: Iterable[str]) -> str:
    parts = list(parts)
    limits.make(sum(map(len, parts)))
    return "".join(parts)


def joined(*values: Any) -> str:
    """What `~` does."""
    return join(map(str, values))


def check_growth(name: str, value: Any, arguments: tuple[Any, ...]) -> None:
    """Before a filter, or a method of a string, that may make much of little."""
    limits.step()
    if name in WIDENING and any(isinstance(width, int) and width > MAX_WIDTH for width in arguments):
        raise SecurityError(f"{name} wider than {MAX_WIDTH} is not allowed in chat templates")
    if name == "replace" and isinstance(value, str) and len(arguments) > 1:
        old, new = map(str, arguments[:2])
        limits.make(len(value) + value.count(old) * len(new))
    elif name == "join" and arguments:
        # A method is called on what stands between the items, a filter is given it.
        items, between = (arguments[0], value) if isinstance(value, str) else (value, arguments[0])
        if isinstance(items, str | list | tuple):
            limits.make(sum(len(str(item)) for item in items) + len(items) * len(str(between)))


def bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    passes = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def bounded(*arguments: Any, **named: Any) -> Any:
        value, *rest = arguments[passes:] or (None,)
        check_growth(name, value, (*rest, *named.values()))
        return function(*arguments, **named)

    return bounded


class Bounding(NodeTransformer):
    """Puts a step into every loop and macro, and a bound on `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._with_step(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._with_step(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._with_step(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", node.nodes).set_lineno(node.lineno)

    def _with_step(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("step", [])).set_lineno(node.lineno))
        return node


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
