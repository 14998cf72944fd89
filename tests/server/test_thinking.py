"""Thinking means the same through every door: the same choice makes the same prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click.testing
import pytest
from starlette.testclient import TestClient

from interns1_local.commands import interns1
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import CHAT_TEMPLATE, FakeBackend, write_gguf
from tests.server.family_files import write_family

USER = [{"role": "user", "content": "Hi"}]
# Shows what a template is told, also where it is told nothing.
TELLING = (
    "{{ 'unset' if enable_thinking is not defined else enable_thinking }} "
    "{{ reasoning_effort | default('no effort') }}|" + CHAT_TEMPLATE
)
CHOICES: dict[str, Any] = {"unset": None, "on": True, "off": False, "level": "high"}
TOLD = {"unset": "unset no effort", "on": "True no effort", "off": "False no effort", "level": "True high"}
PLAIN_CHATML = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def telling(store: ModelStore, tmp_path: Path) -> ModelStore:
    """`telling` says in its prompt what its template was told; there is one more for each choice of a Modelfile."""
    path = write_gguf(tmp_path / "telling.gguf", TELLING)
    for name, think in CHOICES.items():
        parameters = {} if think is None else {"think": think}
        create(store, ModelName.parse(f"telling-{name}"), ModelPlan(files={"m": path}, parameters=parameters))
    create(store, ModelName.parse("telling"), ModelPlan(files={"m": path}))
    return store


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/api/chat", {"messages": USER, "stream": False, **fields}


def completion(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", {"messages": USER, **fields}


def switch(value: Any) -> dict[str, Any]:
    """As LMDeploy's and vLLM's clients ask: a switch, and OpenAI's word for a level."""
    if isinstance(value, str):
        return {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": value}
    return {"chat_template_kwargs": {"enable_thinking": value}}


def effort(value: Any) -> Any:
    return {None: None, True: None, False: "none"}.get(value, value)


Door = Callable[[Any], tuple[str, Mapping[str, Any]]]
DOORS: dict[str, Door] = {
    "/api/chat think": lambda value: chat(think=value),
    "/api/chat options": lambda value: chat(options={"think": value}),
    "/api/generate think": lambda value: ("/api/generate", {"prompt": "Hi", "stream": False, "think": value}),
    "/v1 think": lambda value: completion(think=value),
    "/v1 options": lambda value: completion(options={"think": value}),
    "/v1 enable_thinking": lambda value: (
        completion(enable_thinking=bool(value) if value is not None else None)
        if not isinstance(value, str)
        else completion(enable_thinking=True, think=value)
    ),
    "/v1 chat_template_kwargs": lambda value: completion(**switch(value)),
    "/v1 reasoning_effort": lambda value: completion(
        think=value if value is True else None, reasoning_effort=effort(value)
    ),
    "/v1 reasoning": lambda value: completion(
        think=value if value is True else None, reasoning=effort(value) and {"effort": effort(value)}
    ),
    "/v1/responses": lambda value: (
        "/v1/responses",
        {"input": "Hi", "think": value if value is True else None, "reasoning": {"effort": effort(value)}},
    ),
    "/v1/responses enable_thinking": lambda value: ("/v1/responses", {"input": "Hi", **switch(value)}),
    "/v1/messages": lambda value: (
        "/v1/messages",
        {
            "max_tokens": 5,
            "messages": USER,
            "thinking": None if value is None else {"type": "enabled" if value else "disabled"},
            "output_config": {"effort": value} if isinstance(value, str) else None,
        },
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_door(telling: ModelStore, client: TestClient, backend: FakeBackend, choice: str) -> None:
    del telling
    prompts = {}
    for door, request in DOORS.items():
        path, body = request(CHOICES[choice])
        response = client.post(path, json={"model": "telling", **body})
        assert response.status_code == 200, (door, response.text)
        prompts[door] = backend.last_text
    # The Modelfile's choice, and each door's over another one of the Modelfile.
    client.post("/api/chat", json={"model": f"telling-{choice}", "messages": USER, "stream": False})
    prompts["Modelfile"] = backend.last_text
    if choice != "unset":
        client.post(
            "/api/chat", json={"model": "telling-off", "messages": USER, "stream": False, "think": CHOICES[choice]}
        )
        prompts["over the Modelfile"] = backend.last_text
    told, _, prompt = prompts["Modelfile"].partition("|")
    assert told == TOLD[choice]
    assert prompt.endswith("<think>") == (choice != "off")
    assert set(prompts.values()) == {prompts["Modelfile"]}, prompts


@pytest.mark.parametrize(
    ("flags", "choice"),
    [
        ([], "unset"),
        (["--think"], "on"),
        (["--think=true"], "on"),
        (["--hidethinking"], "unset"),
        (["--think=false"], "off"),
        (["--no-think"], "off"),
        (["--think=high"], "level"),
        (["--option", "think=high"], "level"),
    ],
)
def test_the_command_line(
    telling: ModelStore,
    live_url: str,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    choice: str,
) -> None:
    del telling
    monkeypatch.setenv("INTERNS1_HOST", live_url)
    result = click.testing.CliRunner().invoke(interns1, ["run", "telling", *flags, "Hi"])
    assert result.exit_code == 0, result.output
    assert backend.last_text.startswith(f"{TOLD[choice]}|<|im_start|>user\nHi")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "high"}, "off"),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, "on"),
        ({"chat_template_kwargs": {"enable_thinking": None}, "enable_thinking": False}, "off"),
        ({"reasoning_effort": "high", "think": False}, "level"),
        ({"think": True, "options": {"think": False}}, "on"),
    ],
)
def test_which_wins(
    telling: ModelStore, client: TestClient, backend: FakeBackend, body: dict[str, Any], told: str
) -> None:
    del telling
    client.post("/v1/chat/completions", json={"model": "telling", "messages": USER, **body})
    assert backend.last_text.partition("|")[0] == TOLD[told]


def test_a_switch_that_is_none(client: TestClient) -> None:
    body = {"model": "tiny", "messages": USER, "chat_template_kwargs": {"enable_thinking": "false"}}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "enable_thinking must be true or false; it is 'false'"


def test_a_switch_of_a_model_without_thoughts_is_a_variable_of_its_template(client: TestClient) -> None:
    body = {"model": "plain", "messages": USER, "chat_template_kwargs": {"enable_thinking": True}}
    assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize("template", [None, PLAIN_CHATML])
def test_internlm3_thinks_by_a_system_prompt(
    store: ModelStore, client: TestClient, backend: FakeBackend, tmp_path: Path, template: str | None
) -> None:
    path = write_family(tmp_path / "m.gguf", "llama", name="internlm3-8b-instruct", template=template)
    create(store, ModelName.parse("internlm3"), ModelPlan(files={"m": path}))
    plain = "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    for think in (None, False):
        client.post("/api/chat", json={"model": "internlm3", "messages": USER, "think": think, "stream": False})
        assert backend.last_text == plain
    # A word of `</think>` is no mark for a model that writes its thoughts as text.
    backend.enqueue("First, </think> then 42.")
    answer = client.post("/api/chat", json={"model": "internlm3", "messages": USER, "think": True, "stream": False})
    assert answer.json()["message"] == {"role": "assistant", "content": "First, </think> then 42."}
    prompt = backend.last_text
    assert prompt.startswith("<s><|im_start|>system\nYou are an expert mathematician with extensive experience in ")
    assert (
        "using a '\\boxed{}' without any units, you have [[8192]] tokens to complete the answer.\n<|im_end|>" in prompt
    )
    assert prompt.endswith("<|im_end|>\n" + plain.removeprefix("<s>"))
    own = [{"role": "system", "content": "Be brief."}, *USER]
    client.post("/v1/chat/completions", json={"model": "internlm3", "messages": own, "enable_thinking": True})
    assert backend.last_text == prompt.replace(
        "<|im_start|>user", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user"
    )
    assert "thinking" in client.post("/api/show", json={"model": "internlm3"}).json()["capabilities"]
