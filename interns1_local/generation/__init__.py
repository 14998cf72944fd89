"""Generation, the server's and the Python API's only door to the models."""

from interns1_local.generation.abilities import Abilities, abilities, template_source
from interns1_local.generation.choices import check_number, usage_of
from interns1_local.generation.constraints import Constraint
from interns1_local.generation.generate import chat_choices, generate_chat, generate_text, render_prompt, text_choices
from interns1_local.generation.infill import infill_prompt
from interns1_local.generation.requests import ChatRequest, ContextIds, Echo, GenerationEvent, Logprobs, TextRequest
from interns1_local.generation.stop_strings import StopStrings

__all__ = [
    "Abilities",
    "ChatRequest",
    "Constraint",
    "ContextIds",
    "Echo",
    "GenerationEvent",
    "Logprobs",
    "StopStrings",
    "TextRequest",
    "abilities",
    "chat_choices",
    "check_number",
    "generate_chat",
    "generate_text",
    "infill_prompt",
    "render_prompt",
    "template_source",
    "text_choices",
    "usage_of",
]
