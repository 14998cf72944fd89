"""Our Jinja beside transformers' own: the same prompt for every template and conversation of a table."""

from __future__ import annotations

import itertools
from importlib.resources import files
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from interns1_local.chat.message import Message, Text, ToolCall
from interns1_local.chat.template import ChatTemplate
from interns1_local.errors import BadRequest

Json = dict[str, Any]
FEATURES = """
{%- macro show(message, level=1) %}
    {%- set words = message['content'] | trim if message.content is string else '' %}
    {{- '#' * level }} {{ message.role | upper }}: {{ words[:40] }}{{ '\\n' }}
{%- endmacro -%}
{%- set ns = namespace(count=0, last=none) -%}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% if ns.count > 4 %}
        {% break %}
    {% endif %}
    {% generation %}{% set inside = 'kept' %}{{ show(message, ns.count) }}{% endgeneration %}
  {{ inside | default('outside') }} {{ loop.index }}/{{ loop.length }}
  {{ loop.previtem.role if loop.previtem else '-' }}
    {%- for call in message.tool_calls or [] %}
{{ call.function.name }}: {{ call.function.arguments | tojson }}
{{ call.function.arguments | tojson(indent=2) }}
{{ call.function.arguments | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}
        {%- for key, value in call.function.arguments.items() %}[{{ key }}={{ value }}]{% endfor %}
    {%- endfor %}
    {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
({{ message.reasoning_content }})
    {%- endif %}
{% endfor %}
{% if tools is not none and tools %}
  {{ tools | tojson }} {{ tools | map(attribute='function.name') | join(', ') }}
{% endif %}
{{ strftime_now('%Y') }} {{ bos_token }} {{ tools is none }} {{ documents is none }} {{ missing }}
{{ thinking | default('unset') }}
{% if add_generation_prompt %}go{% endif %}
"""
REFUSING = "{% if messages[0].role != 'user' %}{{ raise_exception('users first') }}{% endif %}ok"
TRIMMING = """{% for m in messages %}
  {%- if m.role %}
<{{ m.role }}>{{ m.content | trim }}</>
  {% endif %}
  {# no #}
{% endfor %}
  end
"""
PARTS = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% elif m.content %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OURS = ("interns1.jinja", "internlm2.jinja", "chatml.jinja")
TEMPLATES = {name: files("interns1_local.chat").joinpath(name).read_text(encoding="utf-8") for name in OURS}
TEMPLATES |= {"features": FEATURES, "refusing": REFUSING, "trimming": TRIMMING, "parts": PARTS}

SYSTEM: Json = {"role": "system", "content": "Be <brief> & kind — 简短。"}
USER: Json = {"role": "user", "content": "  F/C=C\\F 'quoted' \"too\"\n<|im_start|>? \n"}
THOUGHT: Json = {"role": "assistant", "content": "It is cis.", "reasoning_content": "Both on one side.\n"}
ARGUMENTS = {"smiles": "F/C=C\\F é<>&'", "list": [1, 2.5, None, True], "map": {"b": {}, "a": []}}
CALLING: Json = {
    "role": "assistant",
    "content": "Let me see.",
    "reasoning_content": "A tool.",
    "tool_calls": [
        {"type": "function", "id": "1", "function": {"name": "weigh", "arguments": ARGUMENTS}},
        {
            "type": "function",
            "id": "2",
            "function": {"name": "interpreter", "arguments": {"code": "1 + 1\nprint('é')"}},
        },
    ],
}
RESULTS: list[Json] = [
    {"role": "tool", "content": "96.0", "name": "weigh", "tool_call_id": "1"},
    {"role": "tool", "content": "2", "name": "interpreter", "tool_call_id": "2"},
]
CONVERSATIONS: dict[str, list[Json]] = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "several turns": [SYSTEM, USER, THOUGHT, USER],
    "tool loop": [USER, THOUGHT, USER, CALLING, *RESULTS],
    "after the tools": [SYSTEM, USER, CALLING, *RESULTS, THOUGHT, USER],
    "an assistant first": [THOUGHT, USER],
}
TOOLS: list[Json] = [
    {"type": "function", "function": {"name": "weigh", "description": "<é>", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "interpreter", "description": ""}},
]
TOKENS = {"bos_token": "<s>", "eos_token": "<e>"}


def as_message(fields: Json) -> Message:
    """What our protocols make of a client's message."""
    calls = [
        ToolCall(call["function"]["name"], call["function"]["arguments"], call["id"])
        for call in fields.get("tool_calls", ())
    ]
    return Message(
        fields["role"],
        (Text(fields["content"]),),
        fields.get("reasoning_content"),
        tuple(calls),
        fields.get("name"),
        fields.get("tool_call_id"),
    )


def theirs(source: str, messages: list[Json], **options: Any) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=source, **TOKENS, **options)
    return str(rendered[0])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_same_prompt(template: str, conversation: str) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS[conversation]
    ours = ChatTemplate(source, **TOKENS)
    choices = itertools.product((None, True, False), (None, TOOLS), (True, False), ({}, {"thinking": "x", "n": [1]}))
    for think, tools, prompt, kwargs in choices:
        switch = {} if think is None else {"enable_thinking": think}
        options = {"tools": tools, "add_generation_prompt": prompt, **switch, **kwargs}
        try:
            expected = theirs(source, messages, **options)
        except TemplateError as error:
            with pytest.raises(BadRequest, match=f"^{error}$"):
                ours.render([as_message(m) for m in messages], tools=tools, add_generation_prompt=prompt, kwargs=kwargs)
            continue
        rendered = ours.render(
            [as_message(m) for m in messages], tools=tools, think=think, add_generation_prompt=prompt, kwargs=kwargs
        )
        assert rendered == [expected], options


@pytest.mark.parametrize("template", ["interns1.jinja", "internlm2.jinja", "chatml.jinja", "parts"])
@pytest.mark.parametrize("words", ["So far", "So far ", "2 < 3\n"])
def test_an_answer_is_continued_alike(template: str, words: str) -> None:
    source, messages = TEMPLATES[template], [SYSTEM, USER, {"role": "assistant", "content": words}]
    expected = theirs(source, messages, continue_final_message=True)
    assert ChatTemplate(source, **TOKENS).render([as_message(m) for m in messages]) == [expected]


@pytest.mark.parametrize("template", ["interns1.jinja", "internlm2.jinja", "parts"])
def test_parts_of_text_are_one_text(template: str) -> None:
    parts = [{"type": "text", "text": "One, "}, {"type": "text", "text": "two."}]
    expected = theirs(TEMPLATES[template], [SYSTEM, {"role": "user", "content": parts}], add_generation_prompt=True)
    message = Message("user", (Text("One, "), Text("two.")))
    assert ChatTemplate(TEMPLATES[template], **TOKENS).render([as_message(SYSTEM), message]) == [expected]
