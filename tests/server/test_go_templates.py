"""Go templates over HTTP: given by users, and in the models of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.api.model import open_model
from interns1_local.chat.message import Message, Text
from interns1_local.config import Settings
from interns1_local.generation import abilities
from interns1_local.store import manifest as media
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.manifest import Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import FakeBackend, write_gguf
from tests.server.family_files import write_family
from tests.server.test_models import statuses

SIMPLE = "{{ if .System }}<{{ .System }}>{{ end }}[{{ .Prompt }}]{{ .Response }};"
TOOLS = "{{ range .Messages }}{{ .Content }}{{ end }}\n{{ json .Tools }}"
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}, {"role": "user", "content": "So?"}]


def pulled(store: ModelStore, path: Path, template: str) -> None:
    """The model `pulled` as others make it: our config without the word that a user gave the template."""
    model = create(store, ModelName.parse("pulled"), ModelPlan(files={"m": path}, template=template))
    config = {key: value for key, value in model.config.items() if key != media.TEMPLATE_GIVEN}
    layer = store.add_layer(media.CONFIG_TYPE, json.dumps(config).encode())
    store.write(model.name, Manifest(layer, model.manifest.layers))


def prompt(client: TestClient, backend: FakeBackend, model: str, **fields: Any) -> str:
    response = client.post("/api/chat", json={"model": model, "messages": TALK, "stream": False, **fields})
    assert response.status_code == 200, response.text
    return backend.last_text


def test_a_given_template_is_used(client: TestClient, backend: FakeBackend) -> None:
    lines = statuses(client, "/api/create", model="go", template=SIMPLE, system="Be.", **{"from": "tiny"})
    assert lines[0] == {"status": "template is a Go template: it is translated to Jinja"}
    assert prompt(client, backend, "go") == "<Be.>[Hi]Yes;[So?]"
    shown = client.post("/api/show", json={"model": "go"}).json()
    assert (shown["template"], "tools" in shown["capabilities"]) == (SIMPLE, False)
    assert f'TEMPLATE """{SIMPLE}"""' in shown["modelfile"] or f"TEMPLATE {SIMPLE}" in shown["modelfile"]
    statuses(client, "/api/create", model="child", system="", **{"from": "go"}, parameters={"top_k": 3})
    assert prompt(client, backend, "child") == "<Be.>[Hi]Yes;[So?]"


def test_one_without_a_twin_is_kept_and_named(client: TestClient, backend: FakeBackend, store: ModelStore) -> None:
    lines = statuses(client, "/api/create", model="go", template=TOOLS, **{"from": "tiny"})
    assert lines[0]["status"].startswith('warning: template is a Go template with "json" (line 2), which is not')
    assert prompt(client, backend, "go").startswith("<|im_start|>user\nHi")
    assert store.resolve("go").template == TOOLS
    assert client.post("/api/show", json={"model": "go"}).json()["template"].startswith("{%- if tools")


def test_the_template_of_a_request(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tiny", "prompt": "Hi", "system": "Be.", "stream": False}
    assert client.post("/api/generate", json={**body, "template": SIMPLE}).status_code == 200
    assert backend.last_text == "<Be.>[Hi]"
    refused = client.post("/api/generate", json={**body, "template": TOOLS})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        'template is a Go template with "json" (line 2), which is not supported; write it in Jinja',
    )


@pytest.mark.parametrize("template", [SIMPLE, TOOLS])
def test_the_files_own_template_comes_before_a_pulled_one(
    client: TestClient, backend: FakeBackend, store: ModelStore, tmp_path: Path, template: str
) -> None:
    pulled(store, write_gguf(tmp_path / "m.gguf"), template)
    assert prompt(client, backend, "pulled").startswith("<|im_start|>user\nHi")
    assert "tools" in client.post("/api/show", json={"model": "pulled"}).json()["capabilities"]


@pytest.mark.parametrize("tokens", [("a", "b"), ("<|im_start|>", "<|im_end|>")])
def test_a_pulled_template_where_the_file_has_none(
    client: TestClient, backend: FakeBackend, store: ModelStore, tmp_path: Path, tokens: tuple[str, ...]
) -> None:
    pulled(store, write_family(tmp_path / "m.gguf", "llama", tokens=tokens), SIMPLE)
    assert prompt(client, backend, "pulled") == "[Hi]Yes;[So?]"


def test_a_known_family_comes_before_a_pulled_template(
    client: TestClient, backend: FakeBackend, store: ModelStore, tmp_path: Path
) -> None:
    pulled(store, write_family(tmp_path / "m.gguf", "internlm2"), SIMPLE)
    assert "<|im_start|>user\nHi" in prompt(client, backend, "pulled")


def test_no_template_at_all_is_an_error_with_its_reason(client: TestClient, store: ModelStore, tmp_path: Path) -> None:
    pulled(store, write_family(tmp_path / "m.gguf", "llama", tokens=("a", "b")), TOOLS)
    for path in ("/api/chat", "/v1/chat/completions"):
        response = client.post(path, json={"model": "pulled", "messages": TALK, "stream": False})
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error if isinstance(error, str) else error["message"]) == (
            '"pulled" has only a Go template, with "json" (line 2), which is not supported; '
            "give it a Jinja TEMPLATE in a Modelfile, or use raw mode"
        )
    raw = {"model": "pulled", "prompt": "Hi", "raw": True, "stream": False}
    assert client.post("/api/generate", json=raw).status_code == 200


def test_the_python_api_reads_it_from_a_modelfile(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(f'FROM tiny\nTEMPLATE """{SIMPLE}"""\n', encoding="utf-8")
    model = open_model(tmp_path / "Modelfile", None, Settings(models_dir=store.root))
    template = abilities(model).template
    assert template is not None
    assert template.render([Message("user", (Text("Hi"),))]) == ["[Hi]"]
