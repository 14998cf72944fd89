"""Grammars of tool calls. A grammar is one or more kinds of blocks; a kind of block is a module of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers import interns1, interpreter, qwen3, qwen3_coder

Schemas = Mapping[str, Mapping[str, Any]]


class PartialCall(Protocol):
    """A block's body as it arrives. `name` is None until the name is whole and the arguments have begun.

    The pieces that `decode` gives, joined, are a beginning of the arguments' JSON as `json.dumps` writes it.
    """

    name: str | None

    def decode(self, text: str) -> str: ...


class Block(Protocol):
    """What a module in this folder offers. `schemas` are the parameters of the tools by their names."""

    OPEN: str
    CLOSE: str

    def parse_call(self, body: str, schemas: Schemas) -> ToolCall | None:
        """The call that a whole body holds; None if it holds none, or none of a certain meaning."""
        ...

    def partial_call(self, schemas: Schemas) -> PartialCall: ...


GRAMMARS: dict[str, tuple[Block, ...]] = {
    "interns1": (interns1, interpreter),
    "qwen3": (qwen3,),
    "qwen3_coder": (qwen3_coder,),
}


def detect(template_source: str) -> str | None:
    """The grammar that a chat template teaches, or None if it teaches none that is known here."""
    if interns1.OPEN in template_source:
        return "interns1"
    if qwen3.OPEN in template_source:
        return "qwen3_coder" if qwen3_coder.FUNCTION in template_source else "qwen3"
    return None


def parameter_schemas(tools: Sequence[Mapping[str, Any]]) -> Schemas:
    """The JSON schema of each tool's parameters, from tools as OpenAI writes them."""
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("parameters"), Mapping):
            schemas[str(function.get("name"))] = function["parameters"]
    return schemas
