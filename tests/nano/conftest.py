"""The Hugging Face reference of the nano, and a real server over the nano's models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from interns1_local.nano import CHECKPOINT
from interns1_local.nano.pictures import png
from tests.nano.families import Sample
from tests.nano.reference import Reference

Converted = tuple[Path, Path]


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The shipped checkpoint, opened with transformers and torch."""
    return Reference(CHECKPOINT)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, nano_gguf: Callable[..., Converted]) -> Iterator[str]:
    """The address of a real server with its own store; the models that a test needs are made with `create`."""
    from interns1_local.commands.own_server import own_server

    store = tmp_path_factory.mktemp("store")
    # The nano is too small to gain by a second thread.
    environ = {
        "INTERNS1_MODELS": str(store),
        "INTERNS1_KEEP_ALIVE": "10m",
        "INTERNS1_THREADS": "1",
        "INTERNS1_STREAM_INTERVAL": "0",
    }
    with own_server(environ) as client:
        yield client.base_url


def store_model(client: ollama.Client, name: str, *files: Path) -> None:
    """Create the model `name` of `files`, as the `ollama` client does."""
    made = client.create(model=name, files={path.name: client.create_blob(path) for path in files})
    assert made.status == "success"


def chat(client: ollama.Client, model: str, sample: Sample, options: dict[str, Any]) -> str:
    """The plain answer to the last message of `sample`, with its pictures."""
    message: dict[str, Any] = {"role": "user", "content": sample.messages[-1]["content"]}
    if sample.images:
        message["images"] = [png(image) for image in sample.images]
    return client.chat(model, [message], think=False, options=options).message.content or ""


@pytest.fixture(scope="session")
def served(server: str, nano_gguf: Callable[..., Converted]) -> Callable[[str], str]:
    """`served("Q4_K_M")` -> the name of the nano in that type on the server, created as the `ollama` client does."""
    made: set[str] = set()

    def get(type_name: str) -> str:
        name = f"nano-{type_name.lower()}"
        if name not in made:
            # The vision file of the exact types is exact as well.
            model, mmproj = nano_gguf(type_name, type_name if type_name in ("F16", "F32") else "Q8_0")
            with ollama.Client(server) as client:
                store_model(client, name, model, mmproj)
            made.add(name)
        return name

    return get


@pytest.fixture(scope="session")
def client(server: str) -> Iterator[ollama.Client]:
    with ollama.Client(server) as client:
        yield client


@pytest.fixture(scope="session")
def openai_client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        yield client
