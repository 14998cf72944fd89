"""Tokens that come faster than the interval go in one message: the same answer and figures in fewer lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from interns1_local.commands.own_server import own_server
from tests.tiny import tiny_gguf

OPTIONS: dict[str, Any] = {"temperature": 0, "num_predict": 300}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[list[ollama.GenerateResponse]]]:
    """The lines of each answer to the same question with those options, from a server with that interval."""
    folder = tmp_path_factory.mktemp("interval")
    model = Path(tiny_gguf(folder)[0])

    def ask(interval: str, *options: dict[str, Any]) -> list[list[ollama.GenerateResponse]]:
        environ = {"INTERNS1_MODELS": str(folder / "store"), "INTERNS1_STREAM_INTERVAL": interval}
        with own_server(environ) as server, ollama.Client(server.base_url) as client:
            client.create("tiny", files={model.name: client.create_blob(model)})
            return [
                list(client.generate("tiny", "hello world", raw=True, stream=True, options=OPTIONS | more))
                for more in options
            ]

    return ask


def text_of(lines: list[ollama.GenerateResponse]) -> str:
    return "".join(line.response for line in lines)


def test_fewer_lines_and_the_same_answers(answers: Callable[..., list[list[ollama.GenerateResponse]]]) -> None:
    (plain,) = answers("0", {})
    text = text_of(plain)
    # Where nothing of the answer before it looks like its beginning.
    stop = next(text[at : at + 6] for at in range(len(text) // 2, len(text)) if text.find(text[at : at + 6]) == at)
    ((stopped,), (together, cut)) = answers("0", {"stop": [stop]}), answers("1s", {}, {"stop": [stop]})
    assert (text_of(together), together[-1].eval_count) == (text, plain[-1].eval_count)
    assert len(together) < len(text) / 4
    # The first token waits for nobody.
    assert 0 < len(together[0].response) < len(text) / 10
    assert text_of(cut) == text_of(stopped) == text[: text.find(stop)]
    assert cut[-1].eval_count == stopped[-1].eval_count
    assert cut[-1].done_reason == "stop"
