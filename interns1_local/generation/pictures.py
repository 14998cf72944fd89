"""The door to `media_parts`, which takes long to import, for conversations: most have no picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interns1_local.chat.message import Message
from interns1_local.generation.prompt import Parts
from interns1_local.runners.model_spec import ModelFacts


async def parts_of_media(
    messages: Sequence[Message], facts: ModelFacts, options: Mapping[str, Any]
) -> dict[int, Parts]:
    """What `media_parts` gives; nothing for messages with no pictures and films in them."""
    if not any(message.media for message in messages):
        return {}
    from interns1_local.generation.media_parts import media_parts

    return await media_parts(messages, facts, options)
