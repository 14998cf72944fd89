"""Which template a file without one gets, and what a family's own template lacks."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.generation import abilities
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import FakeBackend
from tests.server.family_files import CHAT_TOKENS, write_family
from tests.server.test_chat import TOOL
from tests.server.test_thinking import PLAIN_CHATML

MODEL = ModelName.parse("model")
USER = [{"role": "user", "content": "Hi"}]
LARGE = tuple(f"t{number}" for number in range(100_001))


def published(name: str) -> str:
    return files("interns1_local.chat").joinpath(name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("architecture", "options", "template", "names"),
    [
        ("qwen3", {"vocabulary": "gpt2"}, "interns1.jinja", {"completion", "tools", "thinking"}),
        ("qwen3moe", {"vocabulary": "gpt2"}, "interns1.jinja", {"completion", "tools", "thinking"}),
        ("internlm2", {}, "internlm2.jinja", {"completion", "tools"}),
        ("llama", {}, "internlm2.jinja", {"completion", "tools"}),
        ("llama", {"name": "InternLM3 8B Instruct"}, "internlm2.jinja", {"completion", "tools", "thinking"}),
        ("llama", {"tokens": (*LARGE, "<|im_start|>")}, "internlm2.jinja", {"completion", "tools", "thinking"}),
        ("llama", {"reward": True}, "internlm2_reward.jinja", {"embedding"}),
        ("llama", {"tokens": ("<|im_start|>", "a")}, "chatml.jinja", {"completion"}),
        ("qwen2", {"vocabulary": "gpt2"}, "chatml.jinja", {"completion"}),
        ("llama", {"tokens": ("a", "b")}, None, {"completion"}),
        # The file's own comes first; for tools and thinking the published format stands by.
        ("internlm2", {"template": PLAIN_CHATML}, PLAIN_CHATML, {"completion", "tools"}),
        (
            "llama",
            {"template": PLAIN_CHATML, "name": "internlm3"},
            PLAIN_CHATML,
            {"completion", "tools", "thinking"},
        ),
        ("qwen3", {"template": PLAIN_CHATML, "tokens": CHAT_TOKENS[4:]}, PLAIN_CHATML, {"completion"}),
    ],
)
def test_templates(
    store: ModelStore, tmp_path: Path, architecture: str, options: dict[str, Any], template: str | None, names: set[str]
) -> None:
    path = write_family(tmp_path / "m.gguf", architecture, **options)
    found = abilities(create(store, MODEL, ModelPlan(files={"m": path})))
    source = None if found.template is None else found.template.source
    assert source == (published(template) if template and template.endswith(".jinja") else template)
    assert set(found.names) == names


def test_a_modelfiles_template_is_the_whole_format(store: ModelStore, tmp_path: Path) -> None:
    path = write_family(tmp_path / "m.gguf", "internlm2")
    found = abilities(create(store, MODEL, ModelPlan(files={"m": path}, template=PLAIN_CHATML)))
    assert found.template is not None
    assert found.template.source == PLAIN_CHATML
    assert found.names == ("completion",)


def test_internlm2_calls_tools_though_its_own_template_has_none(
    store: ModelStore, client: TestClient, backend: FakeBackend, tmp_path: Path
) -> None:
    path = write_family(tmp_path / "m.gguf", "internlm2", template=PLAIN_CHATML)
    create(store, MODEL, ModelPlan(files={"m": path}))
    backend.enqueue("Let me see.", '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}')
    body = {"model": "model", "messages": USER, "tools": [TOOL], "stream": False}
    answer = client.post("/api/chat", json=body).json()["message"]
    assert answer["content"] == "Let me see."
    assert answer["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert backend.last_text.startswith('<s><|im_start|>system name=<|plugin|>\n[{"name": "f"')
    # The calls stay in the history, also of a request that offers no tools.
    history = [*USER, {"role": "assistant", **answer}, {"role": "tool", "tool_name": "f", "content": "2"}]
    client.post("/api/chat", json={"model": "model", "messages": history, "stream": False})
    assert backend.last_text == (
        "<s><|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\nLet me see.<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}'
        "<|action_end|><|im_end|>\n"
        "<|im_start|>environment name=<|plugin|>\n2<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    client.post("/api/chat", json={"model": "model", "messages": USER, "stream": False})
    assert backend.last_text == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_code_interpreter_is_a_tool(
    store: ModelStore, client: TestClient, backend: FakeBackend, tmp_path: Path
) -> None:
    create(store, MODEL, ModelPlan(files={"m": write_family(tmp_path / "m.gguf", "internlm2")}))
    backend.enqueue("<|action_start|><|interpreter|>\n```python\n", "print(6 * 7)\n", "```<|action_end|>\n")
    interpreter = {"type": "function", "function": {"name": "interpreter"}}
    body = {"model": "model", "messages": USER, "tools": [interpreter], "stream": False}
    (call,) = client.post("/api/chat", json=body).json()["message"]["tool_calls"]
    assert call["function"] == {"index": 0, "name": "interpreter", "arguments": {"code": "print(6 * 7)"}}
    assert "<|im_start|>system name=<|interpreter|>\nYou now have access to a Jupyter notebook" in backend.last_text
