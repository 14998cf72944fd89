"""A conversation that was saved goes on after the server was ended: only its tail is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ollama
import openai

from interns1_local.commands.own_server import own_server
from tests.nano.conftest import Converted, store_model

SYSTEM = "You answer questions about sums, molecules and pictures. " * 12


def test_a_saved_conversation_is_not_computed_again_after_a_restart(
    nano_gguf: Callable[..., Converted], tmp_path: Path
) -> None:
    environ = {
        "INTERNS1_MODELS": str(tmp_path / "models"),
        "INTERNS1_PREFIX_CACHE_DIR": str(tmp_path / "prefixes"),
        "INTERNS1_THREADS": "1",
    }
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "What is 27 + 15?"}]
    options = {"temperature": 0, "num_ctx": 1024}
    with own_server(environ) as server, ollama.Client(server.base_url) as client:
        store_model(client, "nano-q8_0", *nano_gguf("Q8_0"))
        first = client.chat("nano-q8_0", messages, think=False, options=options)
        assert first.message.content == "42"
        # As `/save` does it.
        messages.append({"role": "assistant", "content": first.message.content})
        client.create(model="saved", from_="nano-q8_0", messages=messages)
    question = {"role": "user", "content": "What is 17 + 25?"}
    with own_server(environ) as server:
        body = {"model": "saved", "messages": [question], "think": False, "options": options, "stream": False}
        again = server.post("/api/chat", body)
        with openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none") as door:
            other = door.chat.completions.create(
                model="nano-q8_0", messages=[*messages, question], temperature=0,
                extra_body={"think": False, "options": options},
            )  # fmt: skip
    assert again["message"]["content"] == other.choices[0].message.content == "42"
    count, cached = again["prompt_eval_count"], again["prompt_eval_cached_count"]
    # The last tokens of the prompt are the question and the marks around it.
    assert first.prompt_eval_count <= cached <= count - 4 < first.prompt_eval_count + 40
    assert other.usage is not None and other.usage.prompt_tokens == count
    # Another name is another worker, which finds the same file.
    assert other.usage.prompt_tokens_details.cached_tokens == cached
