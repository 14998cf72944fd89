"""Chat templates rendered by transformers itself."""

from __future__ import annotations

from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template


def render(template: str, messages: list[dict[str, Any]], tools: list[Any] | None = None, **kwargs: Any) -> str:
    """The prompt for `messages`; with `add_generation_prompt=False`, the conversation alone."""
    kwargs = {"add_generation_prompt": True, **kwargs}
    rendered = render_jinja_template([messages], tools=tools, chat_template=template, **kwargs)
    return str(rendered[0][0])
