"""The Python API on the nano: sync and async, one and many, pictures, tools, formats, and what is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from interns1_local import AsyncInterns1, Interns1
from interns1_local.chat.events import Content, Finish, Reasoning
from interns1_local.errors import BadRequest, ModelNotFound
from interns1_local.nano import CHECKPOINT
from interns1_local.store.sidecars import SIDECARS
from tests.nano.evaluate import exam, is_right
from tests.nano.families import Sample
from tests.stock_files import stock_model

Converted = tuple[Path, Path]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 120}


@pytest.fixture(scope="module")
def files(nano_gguf: Callable[..., Converted]) -> Converted:
    return nano_gguf("Q8_0")


@pytest.fixture(scope="module")
def model(files: Converted) -> Iterator[Interns1]:
    with Interns1(files[0], mmproj=files[1], options={"num_thread": 2}) as model:
        yield model


def test_one_and_many(model: Interns1) -> None:
    answer = model.chat("What is 27 + 15?", think=True, **GREEDY)
    assert str(answer) == "42" and "42" in answer.reasoning and answer.finish_reason == "stop"
    assert answer.usage.output_tokens > answer.usage.reasoning_tokens > 0
    samples = exam("sums", 20)
    answers = model.chat([[dict(m) for m in sample.messages] for sample in samples], think=False, **GREEDY)
    assert sum(is_right(sample, one.content) for sample, one in zip(samples, answers, strict=True)) >= 19
    alone = [model.chat([dict(m) for m in sample.messages], think=False, **GREEDY).content for sample in samples[:4]]
    assert [one.content for one in answers[:4]] == alone
    texts = model.chat(["What is 27 + 15?", "What is the sequence of oxytocin?"], think=False, **GREEDY)
    assert [one.content for one in texts] == ["42", "CYIQNCPLG"]


def test_stream(model: Interns1) -> None:
    events = list(model.stream("What is 27 + 15?", think=True, **GREEDY))
    assert "".join(event.text for event in events if isinstance(event, Content)) == "42"
    assert any(isinstance(event, Reasoning) for event in events) and isinstance(events[-1], Finish)
    for event in model.stream("Who are you?", **GREEDY):
        assert event
        break
    assert str(model.chat("What is 20 + 22?", think=False, **GREEDY)) == "42", "leaving a stream frees its place"


def _pictured(kind: str) -> Sample:
    return next(sample for sample in exam(kind, 20) if sample.images)


def test_pictures(model: Interns1, tmp_path: Path) -> None:
    sample = _pictured("pictures")
    path = tmp_path / "picture.png"
    sample.images[0].save(path)
    question = sample.messages[-1]["content"]
    for given in (path, str(path), path.read_bytes(), sample.images[0]):
        answer = model.chat(question, images=[given], think=False, **GREEDY)
        assert is_right(sample, answer.content)


def test_tools_and_back(model: Interns1) -> None:
    sample = next(sample for sample in exam("tool_calls", 20) if sample.tools)
    messages = [dict(message) for message in sample.messages]
    answer = model.chat(messages, tools=sample.tools, think=False, **GREEDY)
    assert answer.finish_reason == "tool_calls" and answer.tool_calls
    messages += [answer.message, {"role": "tool", "name": answer.tool_calls[0].name, "content": '{"temperature": 3}'}]
    again = model.chat(messages, tools=sample.tools, think=False, **GREEDY)
    assert again.content and again.finish_reason == "stop"


class Sum(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sum: int = pydantic.Field(ge=0, le=99)


def test_formats(model: Interns1) -> None:
    assert Sum.model_validate_json(model.chat("What is 27 + 15?", format=Sum, think=False, **GREEDY).content)
    listed = model.chat("Hi", format={"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}, think=False, **GREEDY)
    assert isinstance(json.loads(listed.content), list)
    tools = next(sample.tools for sample in exam("tool_calls", 20) if sample.tools)
    forced = model.chat("Hello, Paris!", tools=tools, tool_choice="required", think=False, **GREEDY)
    assert forced.tool_calls[0].name == "get_weather" and forced.finish_reason == "tool_calls"


def test_text_and_logprobs(model: Interns1) -> None:
    prompt = "<|im_start|>user\nWhat is 27 + 15?<|im_end|>\n<|im_start|>assistant\n"
    assert str(model.generate(prompt, **GREEDY)) == "42"
    answer = model.chat("What is 27 + 15?", think=False, logprobs=3, **GREEDY)
    assert all(token.logprob <= 0 and len(token.top) == 3 for token in answer.logprobs) and answer.logprobs


def test_vectors(model: Interns1) -> None:
    one = model.embed("aspirin")
    many = model.embed(["aspirin", "ibuprofen"])
    assert np.allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5) and np.allclose(one, many[0], atol=1e-4)
    assert model.embed("aspirin", dimensions=5).shape == (5,)


def test_a_stock_file_beside_its_tokenizer(files: Converted, tmp_path: Path, model: Interns1) -> None:
    """What the stock converter leaves out is taken from the checkpoint's small files in the same folder."""
    sample = exam("smiles_to_name", 1)[0]
    messages = [dict(message) for message in sample.messages]
    expected = model.chat(messages, **GREEDY)
    path = stock_model(files[0], tmp_path / "nano.gguf")
    for name in SIDECARS:
        if (CHECKPOINT / name).is_file():
            shutil.copy(CHECKPOINT / name, tmp_path)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM ./nano.gguf")
    for given in (path, modelfile):
        with Interns1(given, options={"num_thread": 2}) as stock:
            answer = stock.chat(messages, **GREEDY)
        assert answer.message == expected.message
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens


def test_asynchronous(files: Converted) -> None:
    async def work() -> None:
        async with AsyncInterns1(files[0], options={"num_thread": 2}) as model:
            answers = await asyncio.gather(*(model.chat(f"What is {n} + 15?", think=False, **GREEDY) for n in (20, 27)))
            assert [str(answer) for answer in answers] == ["35", "42"]
            assert [str(one) for one in await model.chat(["What is 27 + 15?"], think=False, **GREEDY)] == ["42"]

    asyncio.run(work())


def test_inside_a_running_loop(model: Interns1) -> None:
    """As in a notebook."""

    async def cell() -> str:
        return str(model.chat("What is 27 + 15?", think=False, **GREEDY))

    assert asyncio.run(cell()) == "42"


def test_mistakes(model: Interns1, files: Converted, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unknown argument 'temprature'"):
        model.chat("Hi", temprature=0)
    with pytest.raises(BadRequest, match="there is no picture"):
        model.chat("Hi", images=[tmp_path / "none.png"])
    with pytest.raises(BadRequest, match="at least one message"):
        model.chat([])
    with pytest.raises(BadRequest, match="not a reward model"):
        model.score("Hi")
    with pytest.raises(ModelNotFound, match="no file"):
        Interns1(tmp_path / "none.gguf")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_leaves_no_process(files: Converted) -> None:
    code = (
        "import sys; from interns1_local import Interns1\n"
        "model = Interns1(sys.argv[1]); model.chat('Hi', max_tokens=1); print('ready', flush=True)\n"
        "model.chat('Who are you?', ignore_eos=True, max_tokens=4000)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(files[0])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    workers = _children(child.pid)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert child.returncode != 0 and b"KeyboardInterrupt" in errors
    deadline = time.monotonic() + 10
    while any(_lives(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers and not any(_lives(pid) for pid in workers)


def _children(pid: int) -> list[int]:
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in text.split()]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
