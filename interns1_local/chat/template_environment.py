"""The Jinja that chat templates are written in: sandboxed, bounded, with the functions that Hugging Face offers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from interns1_local.chat.template_limits import Bounding, bounded_filter, check_growth, join, joined, limits
from interns1_local.errors import BadRequest

MAX_STEPS = 1_000_000
_WIDE_FIELD = re.compile(r"\d{5}|\*")


class TemplateRefusal(BadRequest):
    """What a template itself says is wrong with the request."""


class GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One environment for all templates of models."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})
    # Jinja puts together what a macro or a block has written with this.
    concat = staticmethod(join)
    joined = staticmethod(joined)
    step = staticmethod(limits.step)

    def __init__(self, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols])
        self.filters["tojson"] = to_json
        self.filters = {name: bounded_filter(name, function) for name, function in self.filters.items()}
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda format: now().strftime(format)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Bounding().visit(super()._parse(source, name, filename))
        return tree

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            check_growth(function.__name__, owner, (*args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
                limits.make(len(left) + len(right))
            return super().call_binop(context, operator, left, right)
        if operator == "**":
            raise SecurityError("powers are not allowed in chat templates")
        if operator == "%" and isinstance(left, str) and _WIDE_FIELD.search(left):
            raise SecurityError("a field this wide is not allowed in chat templates")
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple | bytes)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if sizes and counts and sizes[0] * counts[0] > MAX_STEPS:
            raise SecurityError(f"a repetition of more than {MAX_STEPS} items is not allowed in chat templates")
        return super().call_binop(context, operator, left, right)


class BoundedRange:
    """`range` for one rendering: all its calls together give at most MAX_STEPS numbers."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def __call__(self, *arguments: int) -> range:
        numbers = range(*arguments)
        self._left -= len(numbers)
        if self._left < 0:
            raise SecurityError(f"range() gave more than {MAX_STEPS} numbers in one chat template")
        return numbers


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates expect it: characters and order as they are, and no HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(str(message))
