"""Golden prompts of InternLM, written after its published chat format, and the end of files without templates."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from interns1_local.chat.message import Message, Text, ToolCall
from interns1_local.chat.template import ChatTemplate

WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}
WEATHER_JSON = (
    '[{"name": "get_current_weather", "description": "Get the current weather in a given location", "parameters": '
    '{"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}}]'
)
INTERPRETER = {"name": "interpreter"}
JUPYTER = """\
You now have access to a Jupyter notebook environment supporting Python code execution. Just send code to python to \
run in this stateful environment. This feature is suitable for:
- Data analysis or processing (such as data manipulation and graphic creation)
- Complex calculations (such as math and physics problems)
- Programming examples (for understanding programming concepts or language features)
- Text processing and analysis (including text analysis and natural language processing)
- Machine learning and data science (model training and data visualization)
- File operations and data import (handling CSV, JSON, etc. formats)"""
ASSISTANT_SYSTEM = "You are InternLM2-Chat, a harmless AI assistant"


def text(role: str, words: str, **fields: Any) -> Message:
    return Message(role, (Text(words),), **fields)


def tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


SYSTEM = text("system", ASSISTANT_SYSTEM)
PLOT = "import plotly.express as px\n\n# Show the plot\nfig.show()"
WEATHER_CALL = ToolCall("get_current_weather", {"location": "Shanghai"}, "call_1")
PLOT_CALL = ToolCall("interpreter", {"code": PLOT}, "call_0")

# (name, tools, messages, prompt without <s>)
GOLDEN: list[tuple[str, list[dict[str, Any]], list[Message], str]] = [
    (
        "turns",
        [],
        [SYSTEM, text("user", "Hello"), text("assistant", "Hello, I am InternLM2-Chat."), text("user", "你好")],
        f"<|im_start|>system\n{ASSISTANT_SYSTEM}<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHello, I am InternLM2-Chat.<|im_end|>\n"
        "<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        "function call",
        [tool(WEATHER)],
        [
            SYSTEM,
            text("user", "I want to know today's weather in Shanghai"),
            text("assistant", "Sure, I will search for the weather of Shanghai.", tool_calls=(WEATHER_CALL,)),
            text("tool", '{"temperature": 22}', tool_call_id="call_1"),
        ],
        f"<|im_start|>system\n{ASSISTANT_SYSTEM}<|im_end|>\n"
        f"<|im_start|>system name=<|plugin|>\n{WEATHER_JSON}<|im_end|>\n"
        "<|im_start|>user\nI want to know today's weather in Shanghai<|im_end|>\n"
        "<|im_start|>assistant\nSure, I will search for the weather of Shanghai.<|action_start|><|plugin|>\n"
        '{"name": "get_current_weather", "parameters": {"location": "Shanghai"}}<|action_end|><|im_end|>\n'
        '<|im_start|>environment name=<|plugin|>\n{"temperature": 22}<|im_end|>\n'
        "<|im_start|>assistant\n",
    ),
    (
        "code interpreter and function call",
        [tool(WEATHER), tool(INTERPRETER)],
        [
            SYSTEM,
            text("user", "Please help me process and visualize this dataset."),
            text("user", '[{"path": "data.csv", "size": "10K"}]', name="file"),
            text("assistant", "I have processed the data.\n\n", tool_calls=(PLOT_CALL,)),
            text("tool", "![image](xxx.png)", tool_call_id="call_0"),
            text("assistant", "It has two filled areas."),
            text("user", "And the weather?"),
        ],
        f"<|im_start|>system\n{ASSISTANT_SYSTEM}<|im_end|>\n"
        f"<|im_start|>system name=<|interpreter|>\n{JUPYTER}<|im_end|>\n"
        f"<|im_start|>system name=<|plugin|>\n{WEATHER_JSON}<|im_end|>\n"
        "<|im_start|>user\nPlease help me process and visualize this dataset.<|im_end|>\n"
        '<|im_start|>user name=file\n[{"path": "data.csv", "size": "10K"}]<|im_end|>\n'
        "<|im_start|>assistant\nI have processed the data.\n\n<|action_start|><|interpreter|>\n"
        f"```python\n{PLOT}\n```<|action_end|>\n<|im_end|>\n"
        "<|im_start|>environment name=<|interpreter|>\n![image](xxx.png)<|im_end|>\n"
        "<|im_start|>assistant\nIt has two filled areas.<|im_end|>\n"
        "<|im_start|>user\nAnd the weather?<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    # LMDeploy's own examples: marks by the names of messages, tools before the first user, no name known.
    (
        "named messages",
        [],
        [
            text("system", "You have access to python environment.", name="interpreter"),
            text("user", "use python to draw a line", name="invalid_name"),
            text("assistant", "<|action_start|><|interpreter|>\ncode<|action_end|>\n"),
            text("environment", "[{'type': 'image'}]", name="interpreter"),
            text("environment", "[]"),
        ],
        "<|im_start|>system name=<|interpreter|>\nYou have access to python environment.<|im_end|>\n"
        "<|im_start|>user\nuse python to draw a line<|im_end|>\n"
        "<|im_start|>assistant\n<|action_start|><|interpreter|>\ncode<|action_end|>\n<|im_end|>\n"
        "<|im_start|>environment name=<|interpreter|>\n[{'type': 'image'}]<|im_end|>\n"
        "<|im_start|>environment\n[]<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    (
        "tools without a system message, an interpreter with words of its own",
        [WEATHER, {"name": "interpreter", "description": "Run Python."}],
        [text("user", "Hi")],
        "<|im_start|>system name=<|interpreter|>\nRun Python.<|im_end|>\n"
        f"<|im_start|>system name=<|plugin|>\n{WEATHER_JSON}<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
]


def published(name: str) -> ChatTemplate:
    return ChatTemplate(files("interns1_local.chat").joinpath(name).read_text(encoding="utf-8"), bos_token="<s>")


@pytest.mark.parametrize(("name", "tools", "messages", "prompt"), GOLDEN, ids=[name for name, *_ in GOLDEN])
def test_internlm2(name: str, tools: list[dict[str, Any]], messages: list[Message], prompt: str) -> None:
    template = published("internlm2.jinja")
    assert (template.supports_tools, template.supports_thinking) == (True, False)
    assert template.render(messages, tools=tools) == ["<s>" + prompt]
    without = prompt.removesuffix("<|im_start|>assistant\n")
    assert template.render(messages, tools=tools, add_generation_prompt=False) == ["<s>" + without]


def test_internlm2_keeps_the_order_of_a_tools_schema() -> None:
    properties = {name: {"type": "string"} for name in ("z", "a", "é")}
    function = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    (prompt,) = published("internlm2.jinja").render([text("user", "Hi")], tools=[tool(function)])
    assert json.dumps([function], ensure_ascii=False) in str(prompt)


def test_internlm2_reward_scores_whole_conversations() -> None:
    """Nothing is asked for behind the last answer, whether or not a prompt is wanted."""
    messages = [text("user", "Hello!"), text("assistant", "Hello! How can I help?")]
    expected = "<s><|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\nHello! How can I help?<|im_end|>\n"
    assert published("internlm2_reward.jinja").render(messages, add_generation_prompt=False) == [expected]
    assert published("internlm2_reward.jinja").render(messages[:1]) == ["<s><|im_start|>user\nHello!<|im_end|>\n"]


def test_a_conversation_without_tools_is_plain_chatml() -> None:
    messages = GOLDEN[0][2]
    assert published("internlm2.jinja").render(messages) == ["<s>" + str(published("chatml.jinja").render(messages)[0])]
