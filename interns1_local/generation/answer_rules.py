"""From a request's format and tools to what the worker holds its answer to."""

from __future__ import annotations

from dataclasses import dataclass

from interns1_local.chat.template import ChatTemplate
from interns1_local.chat.tool_parsers import detect
from interns1_local.errors import BadRequest
from interns1_local.generation.constraints import answer_grammar
from interns1_local.generation.requests import ChatRequest, TextRequest
from interns1_local.generation.tool_grammars import calls_grammar, opening_mark, strict_calls
from interns1_local.runners.model_spec import ModelFacts


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """A grammar for what follows the thought, or for what follows each mark `after`; a mark that is `forbidden`."""

    grammar: str | None = None
    after: str = ""
    forbidden: str = ""


def chat_rules(request: ChatRequest, template: ChatTemplate, facts: ModelFacts) -> AnswerRules:
    """What the answer is held to. Whether a grammar can be used the worker says, before it computes anything."""
    required = request.tool_choice == "required"
    if required and not request.tools:
        raise BadRequest("tool_choice asks for a call, but the request has no tools")
    style = detect(template.source) if request.tools else None
    if request.tool_choice == "none":
        return AnswerRules(text_grammar(request), forbidden=opening_mark(style))
    vocabulary = facts.metadata.get("tokenizer.ggml.tokens") or ()
    if required or (style is not None and request.format is not None):
        grammar = calls_grammar(
            style,
            request.tools,
            vocabulary,
            name=request.tool_name,
            parallel=request.parallel_tool_calls,
            or_answer=None if required else request.format,
        )
        return AnswerRules(grammar)
    strict = None if style is None else strict_calls(style, request.tools, vocabulary)
    if strict is not None:
        return AnswerRules(strict[1], after=strict[0])
    return AnswerRules(text_grammar(request))


def text_grammar(request: ChatRequest | TextRequest) -> str | None:
    return None if request.format is None else answer_grammar(request.format)
