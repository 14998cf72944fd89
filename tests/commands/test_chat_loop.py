"""The terminal chat, typed into a pipe."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from interns1_local.commands.chat import Chat
from interns1_local.commands.chat_loop import HISTORY_FILE, chat_loop
from interns1_local.commands.client import Client
from tests.commands.fake_server import FakeServer, chunks

Talk = Callable[..., str]


@pytest.fixture
def chat(fake: FakeServer) -> Iterator[Chat]:
    with Client(fake.base_url) as client:
        chat = Chat(client, "")
        chat.open("nano")
        yield chat


@pytest.fixture
def talk(chat: Chat, capsys: pytest.CaptureFixture[str]) -> Talk:
    """`talk("line", "line")` types the lines and Ctrl-D, and gives what was printed."""

    def type_lines(*lines: str) -> str:
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
            keyboard.send_text("".join(line + "\r" for line in lines) + "\x04")
            chat_loop(chat)
        printed = capsys.readouterr()
        return printed.out + printed.err

    return type_lines


def answer(fake: FakeServer, *texts: str) -> None:
    fake.answers = [chunks({"content": text}) for text in texts]


def test_a_conversation_keeps_its_history(fake: FakeServer, talk: Talk) -> None:
    answer(fake, "Hello.", "Bye.")
    assert talk("hi", "bye") == "Hello.\n\nBye.\n\n"
    load, _, second = fake.asked("/api/chat")
    assert load["messages"] == []
    assert second["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "bye"},
    ]


def test_several_lines_between_quotes(fake: FakeServer, talk: Talk) -> None:
    answer(fake, "ok", "ok")
    talk('"""first', "", 'last"""', '"""one line"""')
    messages = fake.asked("/api/chat")[-1]["messages"]
    assert [messages[0]["content"], messages[2]["content"]] == ["first\n\nlast", "one line"]


def test_settings_reach_the_request(fake: FakeServer, talk: Talk) -> None:
    answer(fake, "{}")
    printed = talk(
        "/set system Be brief.", "/set parameter temperature 0.5", "/set parameter stop A B", "/set think high",
        "/set format json", "/set verbose", "/set parameter adapter my adapter", "hello",
    )  # fmt: skip
    assert "Set system message.\nSet parameter 'temperature' to '0.5'\n" in printed
    assert "eval rate:            40.00 tokens/s" in printed
    request = fake.asked("/api/chat")[-1]
    assert request["messages"][0] == {"role": "system", "content": "Be brief."}
    assert request["options"] == {"temperature": 0.5, "stop": ["A", "B"], "adapter": "my adapter"}
    assert (request["think"], request["format"]) == ("high", "json")


def test_settings_can_be_taken_back(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    printed = talk("/set nothink", "/set format json", "/set noformat", "/set verbose", "/set quiet", "/set nowordwrap")
    assert printed.count("Set '") == 4
    assert (chat.think, chat.format, chat.verbose, chat.wordwrap) == (False, None, False, False)


def test_think_on_a_model_that_cannot(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    chat.capabilities = ("completion",)
    assert talk("/set think") == "warning: model 'nano' does not support thinking\n"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/?", "/set            Change the chat"),
        ("/help", "/save MODEL"),
        ("/? shortcuts", "Ctrl + d"),
        ("/set", "/set parameter NAME VALUE"),
        ("/set ?", "/set nothink"),
        ("/show info", "architecture        qwen3moe"),
        ("/show modelfile", "FROM nano"),
        ("/show template", "{{ messages }}"),
        ("/show license", "Apache License"),
        ("/show system", "No system message was specified"),
        ("/show parameters", "Model defined parameters:\n  temperature"),
        ("/show", "Error: usage: /show info|license|"),
        ("/list", "nano:latest    0123456789ab"),
        ("/clear", "Cleared session context"),
        ("/sett", "Error: unknown command '/sett'. Type /? for help"),
        ("?", "/clear          Begin a new conversation"),
        ("/retry", "Error: there is no message yet that could be sent again"),
        ("/tokens", "Error: usage: /tokens TEXT"),
        ("/tiles", "Error: usage: /tiles PICTURE"),
        ("/tiles nowhere.png", "Error: cannot read the picture nowhere.png: no such file or directory"),
        ("/set graphics ascii", "Error: usage: /set graphics auto|kitty|sixel|blocks|off"),
        ("/set graphics off", "Set 'graphics' to 'off'."),
        ("/load", "Error: usage: /load MODEL"),
        ("/set parameter top_kk 3", "Error: unknown parameter 'top_kk': did you mean 'top_k'?"),
    ],
)
def test_commands(line: str, part: str, talk: Talk) -> None:
    assert part in talk(line)


def test_bye_leaves(fake: FakeServer, talk: Talk) -> None:
    assert talk("/bye", "not sent") == ""
    assert len(fake.asked("/api/chat")) == 1


def test_clear_forgets(fake: FakeServer, talk: Talk) -> None:
    answer(fake, "one", "two")
    talk("first", "/clear", "second")
    assert [each["content"] for each in fake.asked("/api/chat")[-1]["messages"]] == ["second"]


def test_save_and_load(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    answer(fake, "Hello.")
    printed = talk("/set system Be brief.", "/set think high", "hi", "/save mine", "/load mine")
    assert "Created new model 'mine'\nLoaded 'mine'\n" in printed
    assert fake.asked("/api/create") == [
        {
            "model": "mine",
            "from": "nano",
            "stream": False,
            "parameters": {"think": "high"},
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}],
        }
    ]
    assert (chat.model, chat.messages) == ("mine", [])


def test_a_path_at_the_start_is_a_message(fake: FakeServer, talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    answer(fake, "red")
    assert f"Added image '{tmp_path}/a.png'" in talk(f"{tmp_path}/a.png what colour?")
    [message] = fake.asked("/api/chat")[-1]["messages"]
    assert message["content"] == "what colour?"


def test_an_error_keeps_the_chat(fake: FakeServer, talk: Talk) -> None:
    fake.answers = [[{"status": 503, "error": "server busy"}], chunks({"content": "now"})]
    assert talk("one", "two") == "now\n\nError: server busy\n\n"
    assert [each["content"] for each in fake.asked("/api/chat")[-1]["messages"]] == ["two"]


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    fake.endless = True
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    printed = talk("go", "/list")
    assert printed.startswith("on and on ")
    assert "nano:latest" in printed
    assert fake.left.wait(10)
    assert chat.messages[1]["content"].startswith("on and on")


def test_ctrl_c_at_the_prompt_says_how_to_leave(fake: FakeServer, talk: Talk) -> None:
    assert "Use Ctrl + d or /bye to leave." in talk("\x03")


def test_history_is_kept_in_a_file_unless_told_not_to(fake: FakeServer, talk: Talk, isolated_home: Path) -> None:
    talk("/set verbose", "/set nohistory", "/set quiet")
    history = (isolated_home / HISTORY_FILE).read_text()
    assert "+/set nohistory" in history
    assert "quiet" not in history


def test_nohistory_of_the_settings(
    fake: FakeServer, talk: Talk, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNS1_NOHISTORY", "1")
    talk("/set verbose")
    assert not (isolated_home / HISTORY_FILE).exists()


def test_retry_sends_the_last_message_again(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    fake.answers = [chunks({"content": "one"}), [{"status": 503, "error": "server busy"}], chunks({"content": "two"})]
    fake.answers.append(chunks({"content": "three"}))
    talk("first", "second", "/retry", "/retry")
    assert [message["content"] for message in chat.messages] == ["first", "one", "second", "three"]
    assert [message["content"] for message in fake.asked("/api/chat")[-1]["messages"]] == ["first", "one", "second"]


def test_a_budget_of_thought(fake: FakeServer, talk: Talk, chat: Chat) -> None:
    assert talk("/set think 50") == "Set 'think' mode, at most 50 tokens.\n"
    assert (chat.think, chat.options) == (True, {"think_budget": 50})


def test_a_schema_from_a_file(fake: FakeServer, talk: Talk, chat: Chat, isolated_home: Path) -> None:
    (isolated_home / "my schema.json").write_text('{"type": "object"}')
    assert "Set format" in talk("/set format ~/my\\ schema.json")
    assert chat.format == {"type": "object"}


def test_tokens_shows_how_a_text_is_read(fake: FakeServer, talk: Talk) -> None:
    fake.tokens = [{"id": 7, "piece": "CC", "domain": "smiles", "start": 0, "end": 2}]
    printed = talk("/tokens CC")
    assert "smiles" in printed
    assert "1 tokens, 1 of them science tokens" in printed


def test_tiles_says_what_a_picture_costs(fake: FakeServer, talk: Talk, tmp_path: Path) -> None:
    path = tmp_path / "a picture.png"
    Image.new("RGB", (900, 448)).save(path)
    fake.models["nano"]["projector_info"] = {
        "clip.vision.image_size": 448,
        "clip.vision.patch_size": 14,
        "clip.vision.projector.scale_factor": 2,
        "interns1.vision.max_patches": 12,
    }
    assert "a picture.png: 2x1 tiles, 768 tokens\n" in talk("/load nano", f"/tiles '{path}'")
    fake.models["nano"]["capabilities"] = ["completion"]
    assert talk("/load nano", f"/tiles '{path}'").endswith("Error: 'nano' takes no pictures\n\n")


def test_ctrl_c_while_the_model_loads_keeps_the_chat(
    fake: FakeServer, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(chat: Chat) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Chat, "load", interrupted)
    answer(fake, "Hello.")
    assert "Hello." in talk("hi")
