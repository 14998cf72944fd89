"""Generation, the server's and the Python API's only door to the models."""

from interns1_local.generation.abilities import Abilities, abilities, is_jinja, template_source
from interns1_local.generation.generate import generate_chat, generate_text, render_prompt
from interns1_local.generation.requests import ChatRequest, ContextIds, GenerationEvent, Logprobs, TextRequest
from interns1_local.generation.stop_strings import StopStrings

__all__ = [
    "Abilities",
    "ChatRequest",
    "ContextIds",
    "GenerationEvent",
    "Logprobs",
    "StopStrings",
    "TextRequest",
    "abilities",
    "generate_chat",
    "generate_text",
    "is_jinja",
    "render_prompt",
    "template_source",
]
