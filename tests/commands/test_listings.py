"""list, ps, show, cp, rm, stop, pull, tokenize: tables, JSON and error texts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.commands.conftest import Invoke
from tests.commands.fake_server import DIGEST, FakeServer


def test_list(fake: FakeServer, invoke: Invoke) -> None:
    fake.add_model("internlm/interns1")
    lines = invoke("list").output.splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert lines[1].startswith("nano:latest                 0123456789ab    9.9 MB    ")
    assert lines[1].endswith("years ago")
    assert [line.index("0123") for line in lines[1:]] == [lines[0].index("ID")] * 2
    assert invoke("ls", "intern").output.count("\n") == 2


def test_list_as_json(fake: FakeServer, invoke: Invoke) -> None:
    [model] = json.loads(invoke("list", "--json").output)
    assert (model["name"], model["digest"]) == ("nano:latest", DIGEST)


def test_an_empty_list_is_a_header(fake: FakeServer, invoke: Invoke) -> None:
    fake.models.clear()
    assert invoke("list").output == "NAME    ID    SIZE    MODIFIED\n"


@pytest.mark.parametrize(
    ("sizes", "minutes", "processor", "until"),
    [
        ((1000, 0), 4.5, "100% CPU", "4 minutes from now"),
        ((0, 0), 4.5, "100% CPU", "4 minutes from now"),
        ((1000, 1000), 1e8, "100% GPU", "Forever"),
        ((1000, 660), -1, "34%/66% CPU/GPU", "Stopping..."),
        ((1000, 660, 660), 4.5, "34%/66% CPU/RPC", "4 minutes from now"),
        ((1000, 1000, 1000), 4.5, "100% RPC", "4 minutes from now"),
        ((1000, 900, 500), 4.5, "10%/40%/50% CPU/GPU/RPC", "4 minutes from now"),
        ((1000, 2000), 4.5, "Unknown", "4 minutes from now"),
    ],
)
def test_ps(
    sizes: tuple[int, ...], minutes: float, processor: str, until: str, fake: FakeServer, invoke: Invoke
) -> None:
    expires = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")
    fake.loaded = [
        {"name": "nano:latest", "digest": DIGEST, "context_length": 4096, "expires_at": expires,
         **dict(zip(("size", "size_vram", "size_rpc"), sizes, strict=False))},
    ]  # fmt: skip
    header, row = invoke("ps").output.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.split("    ")[0] == "nano:latest"
    assert [row.find(part) for part in (processor, "4096", until)] == [
        header.index(name) for name in ("PROCESSOR", "CONTEXT", "UNTIL")
    ]


def test_show(fake: FakeServer, invoke: Invoke) -> None:
    output = invoke("show", "nano").output
    assert "  Model\n    architecture        qwen3moe\n    parameters          6.2M\n" in output
    assert "    context length      4096\n" in output
    assert "  Capabilities\n    completion\n    thinking\n" in output
    assert '    stop           "<|im_end|>"\n' in output
    assert "  License\n    Apache License\n    Version 2.0\n    ...\n" in output


def test_show_one_part(fake: FakeServer, invoke: Invoke) -> None:
    assert invoke("show", "nano", "--modelfile").output == "FROM nano\n\n"
    two = invoke("show", "nano", "--modelfile", "--license")
    assert (two.exit_code, two.stderr[:25]) == (1, "Error: only one of --lice")
    assert json.loads(invoke("show", "nano", "--json").output)["details"]["family"] == "qwen3moe"


def test_show_verbose_asks_for_it(fake: FakeServer, invoke: Invoke) -> None:
    fake.models["nano"]["tensors"] = [{"name": "output.weight", "type": "Q8_0", "shape": [256, 900]}]
    output = invoke("show", "nano", "-v").output
    assert fake.asked("/api/show")[-1]["verbose"] is True
    assert "    general.architecture         qwen3moe\n" in output
    assert "    output.weight    Q8_0    [256, 900]\n" in output


def test_cp_and_rm(fake: FakeServer, invoke: Invoke) -> None:
    assert invoke("cp", "nano", "other").output == "copied 'nano' to 'other'\n"
    assert fake.asked("/api/copy") == [{"source": "nano", "destination": "other"}]
    assert invoke("rm", "nano").output == "deleted 'nano'\n"
    assert "nano" not in fake.models


def test_stop_unloads(fake: FakeServer, invoke: Invoke) -> None:
    assert invoke("stop", "nano").exit_code == 0
    assert fake.asked("/api/generate")[0]["keep_alive"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nope"], "model 'nope' not found"),
        (["rm", "nope"], "model 'nope' not found"),
        (["cp", "nope", "x"], 'model "nope" not found'),
        (["stop", "nope"], 'couldn\'t find model "nope" to stop; `interns1 ps` lists what is loaded'),
    ],
)
def test_unknown_model(arguments: list[str], message: str, fake: FakeServer, invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (1, f"Error: {message}\n")


@pytest.mark.parametrize("arguments", [["ps"], ["stop", "nano"]])
def test_no_server(arguments: list[str], no_server: None, invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: could not connect to the interns1 server at http://127.0.0.1:9, run 'interns1 serve' to start it\n"
    )


def test_a_far_server_is_never_replaced_by_our_own(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    monkeypatch.setenv("INTERNS1_HOST", "no-such-host.invalid:1234")
    result = invoke("list")
    assert (result.exit_code, result.stderr[:31]) == (1, "Error: could not connect to the")


def test_pull(fake: FakeServer, invoke: Invoke) -> None:
    fake.statuses = [
        {"status": "pulling manifest"},
        {"status": "pulling 8eeb52dfb3bb", "total": 100, "completed": 50},
        {"status": "pulling 8eeb52dfb3bb", "total": 100, "completed": 100},
        {"status": "success"},
    ]
    result = invoke("pull", "other")
    assert result.stderr == "pulling manifest\npulling 8eeb52dfb3bb\nsuccess\n"
    assert result.stdout == ""


def test_pull_that_fails(fake: FakeServer, invoke: Invoke) -> None:
    fake.statuses = [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    result = invoke("pull", "nope")
    assert result.exit_code == 1
    assert result.stderr.endswith("Error: pull model manifest: file does not exist\n")
