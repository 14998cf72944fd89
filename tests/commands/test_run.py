"""`interns1 run MODEL PROMPT`: what is asked, what is printed, and how it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Invoke
from tests.commands.fake_server import FakeServer, chunks

PNG = b"\x89PNG\r\n\x1a\n picture"


@pytest.fixture
def answering(fake: FakeServer) -> FakeServer:
    fake.answers = [chunks({"content": "4"}, {"content": "2"})]
    return fake


def test_answer(answering: FakeServer, invoke: Invoke) -> None:
    result = invoke("run", "nano", "What is", "17 + 25?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "42\n", "")
    [request] = answering.asked("/api/chat")
    assert request == {
        "model": "nano",
        "messages": [{"role": "user", "content": "What is 17 + 25?"}],
        "stream": True,
    }


def test_thinking_is_framed(fake: FakeServer, invoke: Invoke) -> None:
    answer = chunks({"thinking": "17 + 25"}, {"thinking": " = 42"}, {"content": "It is "}, {"content": "42."})
    fake.answers = [answer, answer, chunks({"thinking": "only a thought"})]
    framed = "Thinking...\n17 + 25 = 42\n...done thinking.\n\nIt is 42.\n"
    assert invoke("run", "nano", "--think", "sum").stdout == framed
    assert invoke("run", "nano", "--think", "--hidethinking", "sum").stdout == "It is 42.\n"
    assert invoke("run", "nano", "sum").stdout == "Thinking...\nonly a thought\n...done thinking.\n\n"


def test_tool_calls_and_line_separators(fake: FakeServer, invoke: Invoke) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "上海"}}}
    fake.answers = [chunks({"content": "a\u2028b\u0085c"}, {"tool_calls": [call]})]
    assert invoke("run", "nano", "x").stdout == 'a\u2028b\u0085c\nweather({"city": "上海"})\n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--think"], True),
        (["--think=true"], True),
        (["--think=false"], False),
        (["--think=high"], "high"),
        (["--no-think"], False),
        ([], None),
    ],
)
def test_think(arguments: list[str], expected: Any, answering: FakeServer, invoke: Invoke) -> None:
    assert invoke("run", "nano", *arguments, "hello").exit_code == 0
    [request] = answering.asked("/api/chat")
    assert request.get("think") == expected
    assert request["messages"][0]["content"] == "hello"


def test_every_option_reaches_the_request(answering: FakeServer, invoke: Invoke) -> None:
    invoke(
        "run", "nano", "hello", "--system", "Be brief.", "--option", "temperature=0.5", "--option", "top_k=3",
        "--option", "stop=A", "--option", "stop=B", "--format", '{"type": "object"}', "--keepalive", "1m",
    )  # fmt: skip
    [request] = answering.asked("/api/chat")
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request["options"] == {"temperature": 0.5, "top_k": 3, "stop": ["A", "B"]}
    assert (request["format"], request["keep_alive"]) == ({"type": "object"}, "1m")


def test_stdin_comes_before_the_prompt(fake: FakeServer, invoke: Invoke) -> None:
    fake.answers = [chunks({"content": "ok"}), chunks({"content": "ok"})]
    invoke("run", "nano", "Summarize", stdin="a text\n")
    invoke("run", "nano", stdin="only this\n")
    assert [each["messages"][0]["content"] for each in fake.asked("/api/chat")] == [
        "a text\n\nSummarize",
        "only this",
    ]


def test_pictures(answering: FakeServer, invoke: Invoke, tmp_path: Path) -> None:
    first, second = tmp_path / "first.png", tmp_path / "a second.PNG"
    for path in (first, second):
        path.write_bytes(PNG)
    escaped = str(second).replace(" ", "\\ ")
    result = invoke("run", "nano", f"What is in '{escaped}' here?", "--image", str(first))
    [message] = answering.asked("/api/chat")[0]["messages"]
    assert message["content"] == "What is in here?"
    assert message["images"] == [base64.b64encode(PNG).decode()] * 2
    assert result.stderr == f"Added image '{second}'\n"


def test_a_text_model_keeps_paths_as_text(answering: FakeServer, invoke: Invoke, tmp_path: Path) -> None:
    answering.models["nano"]["capabilities"] = ["completion"]
    (tmp_path / "a.png").write_bytes(PNG)
    invoke("run", "nano", f"see {tmp_path}/a.png")
    assert answering.asked("/api/chat")[0]["messages"] == [{"role": "user", "content": f"see {tmp_path}/a.png"}]


def test_verbose_prints_figures(answering: FakeServer, invoke: Invoke) -> None:
    assert invoke("run", "nano", "--verbose", "x").stderr.splitlines() == [
        "total duration:       1.5s",
        "load duration:        12.3ms",
        "prompt eval count:    10 token(s)",
        "prompt eval duration: 100ms",
        "prompt eval rate:     100.00 tokens/s",
        "eval count:           20 token(s)",
        "eval duration:        500ms",
        "eval rate:            40.00 tokens/s",
    ]


def test_a_missing_model_is_pulled(fake: FakeServer, invoke: Invoke) -> None:
    fake.models.clear()
    fake.answers = [chunks({"content": "hi"})]
    result = invoke("run", "nano", "hello")
    assert (result.stdout, result.stderr) == ("hi\n", "success\n")
    assert fake.asked("/api/pull")[0]["model"] == "nano"


def test_an_embedding_model_prints_numbers(fake: FakeServer, invoke: Invoke) -> None:
    fake.models["nano"]["capabilities"] = ["embedding"]
    assert json.loads(invoke("run", "nano", "hello").stdout) == [0.6, 0.8]
    invoke("run", "nano", "hello", "--no-truncate", "--dimensions", "1", "--keepalive", "1m")
    plain, chosen = fake.asked("/api/embed")
    assert plain == {"model": "nano", "input": "hello"}
    assert chosen == {**plain, "truncate": False, "dimensions": 1, "keep_alive": "1m"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--think=loud"], 'invalid think value: "loud" (must be "high", "medium", "low", "max", true, or false)'),
        (["--option", "temprature=1"], "unknown parameter 'temprature': did you mean 'temperature'?"),
        (["--option", "top_k=many"], "parameter 'top_k': invalid int value [many]; a whole number is expected"),
        (["--option", "top_k"], "--option needs name=value, as in --option temperature=0.7; it is 'top_k'"),
        (["--format", "xml"], "invalid format: 'xml'; expected 'json', a JSON schema or a file with one"),
        (["--image", "nowhere.png"], "cannot read the picture nowhere.png: no such file or directory"),
    ],
)
def test_mistakes(arguments: list[str], message: str, fake: FakeServer, invoke: Invoke) -> None:
    result = invoke("run", "nano", "hello", *arguments)
    assert (result.exit_code, result.stderr) == (1, f"Error: {message}\n")


def test_errors_of_the_server(fake: FakeServer, invoke: Invoke) -> None:
    fake.answers = [
        [{"status": 503, "error": "server busy, please try again.  maximum pending requests exceeded"}],
        [*chunks({"content": "half"})[:1], {"error": "model runner has unexpectedly stopped"}],
    ]
    busy, broken = invoke("run", "nano", "x"), invoke("run", "nano", "x")
    assert (busy.exit_code, busy.stderr[:19]) == (1, "Error: server busy,")
    assert (broken.exit_code, broken.stdout) == (1, "half\n")
    assert broken.stderr == "Error: model runner has unexpectedly stopped\n"


def test_ctrl_c_ends_the_request_and_the_command(fake: FakeServer) -> None:
    fake.endless = True
    process = subprocess.Popen(
        [sys.executable, "-m", "interns1_local.commands", "run", "nano", "x"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout and process.stderr
    assert process.stdout.read(9) == b"on and on"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"")
    assert fake.left.wait(10)
