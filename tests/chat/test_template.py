"""Golden prompts of the Intern-S1 template, and what every template can rely on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from interns1_local.chat.message import Image, Message, Text, ToolCall, Video
from interns1_local.chat.template import ChatTemplate, MediaRef, ends_in_think
from interns1_local.errors import BadRequest, Unsupported

THINKING_SYSTEM = (
    "You are an expert reasoner with extensive experience in all areas. You approach problems through systematic "
    "thinking and rigorous reasoning. Your response should reflect deep understanding and precise logical thinking, "
    "making your solution path and reasoning clear to others. Please put your thinking process within "
    "<think>...</think> tags."
)
TOOL_INSTRUCTION = """\
Your response should consist of a reasoning step (**thought**) followed immediately by a function call in valid JSON \
format. Wrap each function call using the `<|action_start|><|plugin|>` and `<|action_end|>` tags.

**Format example:**

```
(Your thought goes here...)

<|action_start|><|plugin|>
{
    "name": "tool_name",
    "parameters": {
        "parameter1": "value1",
        "parameter2": "value2"
    }
}
<|action_end|>
```

# External Tools
You have access to these tools:
"""
TOOLS = [{"type": "function", "function": {"name": "f", "description": "é & <b>"}}]
TOOLS_JSON = """\
[
  {
    "type": "function",
    "function": {
      "name": "f",
      "description": "é & <b>"
    }
  }
]"""
USER = Message("user", (Text("hi"),))


def render(*messages: Message, **options: Any) -> str:
    (prompt,) = ChatTemplate.default_interns1().render(messages, **options)
    assert isinstance(prompt, str)
    return prompt


@pytest.mark.parametrize(
    ("think", "system", "tools"), [*itertools.product((None, True, False, "low"), (None, "Be brief."), (False, True))]
)
def test_interns1_opening(think: bool | str | None, system: str | None, tools: bool) -> None:
    thinking = think is not False
    words = system or (THINKING_SYSTEM if thinking else None)
    if tools:
        head = "<|im_start|>system name=<|plugin|>\n" + (f"{words}\n\n" if words else "")
        head += TOOL_INSTRUCTION + TOOLS_JSON + "<|im_end|>\n"
    else:
        head = f"<|im_start|>system\n{words}<|im_end|>\n" if words else ""
    expected = head + "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n" + ("<think>" if thinking else "")
    messages = ([Message("system", (Text(system),))] if system else []) + [USER]
    prompt = render(*messages, think=think, tools=TOOLS if tools else None)
    assert prompt == expected
    assert ends_in_think(prompt) is thinking


def test_interns1_tool_loop() -> None:
    call = ToolCall("f", {"a": "CC"}, id="call_1")
    turns = (
        Message("assistant", (Text("old answer"),), reasoning="old"),
        USER,
        Message("assistant", (Text("c"),), reasoning="new", tool_calls=(call, ToolCall("g", {}, id="call_2"))),
        Message("tool", (Text("second"),), tool_call_id="call_2"),
        Message("tool", (Text("first"),), tool_call_id="call_1"),
        Message("tool", (Text("unknown"),), tool_call_id="call_9"),
    )
    assert render(USER, *turns, think=False) == (
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nold answer<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nnew\n</think>\nc"
        '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": "CC"}}\n<|action_end|>'
        '<|action_start|><|plugin|>\n{"name": "g", "parameters": {}}\n<|action_end|><|im_end|>\n'
        "<|im_start|>environment name=<|plugin|>\nsecond<|im_end|>\n"
        "<|im_start|>environment name=<|plugin|>\nfirst<|im_end|>\n"
        "<|im_start|>environment\nunknown<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tool_names_reach_the_template_by_id_by_place_or_as_given() -> None:
    template = ChatTemplate("{% for m in messages %}{% if m.role == 'tool' %}[{{ m.name }}]{% endif %}{% endfor %}")
    calls = Message("assistant", tool_calls=(ToolCall("a", {}, "1"), ToolCall("b", {}, "2")))
    by_id = [calls, Message("tool", tool_call_id="2"), Message("tool", tool_call_id="1")]
    by_place = [calls, Message("tool"), Message("tool")]
    given = [calls, Message("tool", name="z", tool_call_id="2")]
    assert [template.render(messages) for messages in (by_id, by_place, given)] == [["[b][a]"], ["[a][b]"], ["[z]"]]


def test_media_become_references_and_text_that_spells_them_does_not() -> None:
    question = Message("user", (Image(b"1"), Text("<IMG_CONTEXT> or <video>?"), Video(b"2")))
    prompt = ChatTemplate.default_interns1().render([question, USER], think=False)
    assert prompt == [
        "<|im_start|>user\n",
        MediaRef(0),
        "\n<IMG_CONTEXT> or <video>?",
        MediaRef(1),
        "\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    ]


def test_a_picture_may_end_the_prompt_and_tags_around_it_are_the_tokenizers() -> None:
    template = ChatTemplate("{% for part in messages[0].content %}<img><IMG_CONTEXT></img>{% endfor %}")
    assert template.render([Message("user", (Image(b"1"), Image(b"2")))]) == [MediaRef(0), MediaRef(1)]


def test_media_beside_a_template_that_knows_none() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    question = Message("user", (Image(b"1"), Text("what?")))
    assert template.render([question]) == [MediaRef(0), "\nwhat?"]
    dropping = ChatTemplate("nothing")
    with pytest.raises(Unsupported, match="placed 0 of 1"):
        dropping.render([question])


def test_a_template_may_speak_about_pictures() -> None:
    template = ChatTemplate("Use <image> and <video>.")
    assert template.render([USER]) == ["Use <image> and <video>."]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>\n{% endfor %}{% if add_generation_prompt %}!{% endif %}",  # noqa: E501
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ 'e' }}{% endfor %}",
    ],
)
def test_an_assistants_last_words_are_continued(source: str) -> None:
    prompt = ChatTemplate(source).render([Message("assistant", (Text("Sure, e "),))])
    assert prompt == ["<assistant>Sure, e "]


def test_interns1_prefill_and_scoring() -> None:
    answer = Message("assistant", (Text("so far"),))
    assert render(USER, answer, think=False).endswith("<|im_start|>assistant\nso far")
    assert render(USER, answer, think=False, add_generation_prompt=False).endswith("assistant\nso far")


def test_unset_thinking_is_not_passed() -> None:
    source = "{{ enable_thinking if enable_thinking is defined else 'unset' }} {{ reasoning_effort }} {{ x }}"
    template = ChatTemplate(source)
    assert template.supports_thinking
    table: list[tuple[bool | str | None, dict[str, Any] | None, str]] = [
        (None, None, "unset  "),
        (True, None, "True  "),
        ("high", None, "True high "),
        (True, {"enable_thinking": False, "x": 1}, "False  1"),
        (None, {"enable_thinking": None}, "unset  "),
        (True, {"enable_thinking": None}, "True  "),
    ]
    for think, kwargs, expected in table:
        assert template.render([USER], think=think, kwargs=kwargs) == [expected]
    with pytest.raises(BadRequest, match="chat_template_kwargs"):
        template.render([USER], kwargs={"messages": []})


def test_what_hugging_face_offers_to_templates() -> None:
    table = [
        ('{{ {"b": "é<", "a": [1, none, true]} | tojson }}', '{"b": "é<", "a": [1, null, true]}'),
        ('{{ {"b": 1, "a": 2} | tojson(sort_keys=true, separators=(",", ":")) }}', '{"a":2,"b":1}'),
        ('{{ "é" | tojson(ensure_ascii=true) }}', '"\\u00e9"'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "02"),
        ("a{% generation %}b{{ bos_token }}{% endgeneration %}c", "ab<s>c"),
        ("{% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{{ tools is none }} {{ documents is none }}{{ missing }}", "True True"),
        ("{{ strftime_now('%%') }}", "%"),
    ]
    for source, expected in table:
        assert ChatTemplate(source, bos_token="<s>").render([USER]) == [expected], source


def test_a_templates_refusal_is_the_clients_error() -> None:
    with pytest.raises(BadRequest, match=r"^roles must alternate$"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}").render([USER])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(100000000000000000000) %}{% endfor %}",
        "{% for i in range(5000) %}{% for j in range(5000) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ missing.name }}",
        "{{ 1 / 0 }}",
        "{{ messages | tojson(indent=missing) }}{{ missing | tojson }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(1000) %}{{ 'a' * 100000 }}{% endfor %}",
    ],
)
def test_a_bad_template_is_an_error_and_no_harm(source: str) -> None:
    with pytest.raises(BadRequest, match="chat template"):
        ChatTemplate(source).render([USER])


def test_a_template_that_is_no_jinja() -> None:
    with pytest.raises(Unsupported, match="not valid Jinja"):
        ChatTemplate("{% if %}")


def test_capabilities() -> None:
    interns1 = ChatTemplate.default_interns1()
    assert (interns1.supports_tools, interns1.supports_thinking) == (True, True)
    plain = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    assert (plain.supports_tools, plain.supports_thinking) == (False, False)


def test_ends_in_think() -> None:
    table: list[tuple[str | list[str | MediaRef], bool]] = [
        ("a<think>", True),
        ("a<think>\n", True),
        ("a<think>b", False),
        ("", False),
        (["x", MediaRef(0), "<think>\n\n"], True),
        ([MediaRef(0)], False),
        ([], False),
    ]
    assert [ends_in_think(prompt) for prompt, _ in table] == [expected for _, expected in table]
