"""What ends or stops a worker, through a real server: the client gets the reason, other models answer all the while,
and when the harm is undone the next request is answered."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from interns1_local.config import Settings
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.server.app import create_app
from interns1_local.server.services import resolver
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.conftest import live
from tests.tiny import tiny_gguf

OPTIONS = {"temperature": 0, "num_predict": 4, "num_ctx": 16384}


@dataclass(frozen=True)
class Served:
    """A server with the models `steady` and `hurt`, the files of the latter, and the way to its worker."""

    http: httpx.Client
    model: Path
    mmproj: Path
    scheduler: ModelScheduler

    def ask(self, name: str, path: str = "/api/generate", **fields: Any) -> httpx.Response:
        body = {"model": name, "prompt": "hello", "raw": True, "stream": False, "options": OPTIONS, **fields}
        return self.http.post(path, json=body)

    def pid(self) -> int:
        return int(self.scheduler._table.slots["hurt:latest"].runner.pid)

    def unload(self) -> None:
        self.http.post("/api/generate", json={"model": "hurt", "keep_alive": 0})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("robust")
    store = ModelStore(folder / "models")
    for seed, name in enumerate(("steady", "hurt")):
        model, mmproj = tiny_gguf(folder / name, seed=seed)
        create(store, ModelName.parse(name), ModelPlan(files={"m": model, "p": mmproj}))
    settings = Settings(models_dir=store.root, noprune=True, threads=1, load_timeout=60.0)
    scheduler = ModelScheduler(settings, resolver(store))
    hurt = store.resolve(ModelName.parse("hurt"))
    assert hurt.mmproj_path is not None
    for path in (hurt.model_path, hurt.mmproj_path):
        path.chmod(0o644)
    with (
        live(create_app(settings, store, scheduler)) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
    ):
        yield Served(http, hurt.model_path, hurt.mmproj_path, scheduler)


@contextmanager
def content(path: Path, change: Callable[[bytes], bytes] | None) -> Iterator[None]:
    """The file at `path` changed in place, or gone, for a while."""
    before = path.read_bytes()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(before))
    try:
        yield
    finally:
        path.write_bytes(before)


def check_all_is_well(served: Served) -> None:
    for name in ("steady", "hurt"):
        answer = served.ask(name)
        assert answer.status_code == 200, answer.text
        assert answer.json()["eval_count"] > 0


FILES: dict[str, tuple[str, Callable[[bytes], bytes] | None, int, str]] = {
    "a truncated model": ("model", lambda data: data[: len(data) // 2], 500, "truncated|ends|beyond|cannot read"),
    "a model of zeros": ("model", lambda data: bytes(len(data)), 500, "not a GGUF|GGUF"),
    "an empty model": ("model", lambda data: b"", 500, "GGUF|too short|empty"),
    "a model that is gone": ("model", None, 404, "missing|not found"),
    "a truncated vision file": ("mmproj", lambda data: data[: len(data) // 2], 500, "truncated|beyond|cannot read"),
    "a vision file that is none": ("mmproj", lambda data: b"GGUF" + data[4:64], 500, "cannot read|GGUF"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_damaged_when_the_model_is_loaded(served: Served, case: str) -> None:
    which, change, status, reason = FILES[case]
    served.unload()
    with content(served.model if which == "model" else served.mmproj, change):
        answer = served.ask("hurt")
        assert answer.status_code == status, answer.text
        assert served.ask("steady").status_code == 200
        assert re.search(reason, answer.json()["error"]), answer.text
    check_all_is_well(served)


def test_a_text_model_as_vision_file(served: Served) -> None:
    served.unload()
    with content(served.mmproj, lambda _: served.model.read_bytes()):
        answer = served.ask("hurt")
        assert answer.status_code == 500 and "vision" in answer.json()["error"], answer.text
        assert served.ask("steady").status_code == 200
    check_all_is_well(served)


REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "an invalid token id": ("/v1/completions", {"prompt": [5, 10**6]}, "vocabulary"),
    "a negative token id": ("/v1/completions", {"prompt": [-1]}, "token"),
    "a bad regex": ("/api/generate", {"grammar": {"type": "regex", "value": "(("}}, "regex|grammar|parenthes"),
    "a bad grammar": ("/api/generate", {"grammar": {"type": "lark", "value": "start: nowhere"}}, "nowhere|grammar"),
    "a hostile grammar": ("/api/generate", {"grammar": {"type": "gbnf", "value": "root ::= " + "(" * 9999}}, "grammar"),
    "a prompt that is too long": ("/api/generate", {"prompt": "hello " * 30000}, "context"),
    "a context that cannot be": ("/api/generate", {"options": {"num_ctx": 2**31}}, "num_ctx"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_that_llama_cpp_would_not_survive(served: Served, case: str) -> None:
    path, fields, reason = REQUESTS[case]
    check_all_is_well(served)
    pid = served.pid()
    answer = served.ask("hurt", path, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert re.search(reason, error if isinstance(error, str) else error["message"]), answer.text
    check_all_is_well(served)
    assert served.pid() == pid


def long_answer(served: Served, prompt: str, then: Callable[[], None]) -> str:
    """The error that ends an answer of `hurt`, too long to end by itself; `then` happens after its first words."""
    options = {"num_ctx": OPTIONS["num_ctx"]}
    body = {"model": "hurt", "prompt": prompt, "temperature": 0, "ignore_eos": True, "max_tokens": 15_000}
    with served.http.stream("POST", "/v1/completions", json={**body, "options": options, "stream": True}) as response:
        lines = filter(None, response.iter_lines())
        first = next(lines)
        then()
        return str(json.loads([first, *lines][-1].removeprefix("data: "))["error"]["message"])


def test_a_worker_killed_in_mid_answer(served: Served) -> None:
    check_all_is_well(served)
    pid = served.pid()
    last = long_answer(served, "one two", lambda: os.kill(pid, signal.SIGKILL))
    assert "SIGKILL" in last
    check_all_is_well(served)
    assert served.pid() != pid


def test_a_model_file_truncated_under_its_worker(served: Served) -> None:
    check_all_is_well(served)
    before = served.model.read_bytes()
    try:
        last = long_answer(served, "three four", lambda: os.truncate(served.model, 4096))
        assert "SIGBUS" in last
        assert served.ask("steady").status_code == 200
        # The next worker would find the file as it is now, and the server sees it before.
        assert served.ask("hurt").status_code == 500
    finally:
        served.model.write_bytes(before)
    check_all_is_well(served)


def test_a_model_file_that_vanishes_under_its_worker(served: Served) -> None:
    check_all_is_well(served)
    pid = served.pid()
    with content(served.model, None):
        assert served.ask("steady").status_code == 200
        # The server looks at the file for each request, and says that it is gone; its worker stays.
        answer = served.ask("hurt")
        assert answer.status_code == 404 and "missing" in answer.json()["error"], answer.text
    os.kill(pid, 0)
    check_all_is_well(served)


def test_a_request_that_two_workers_did_not_survive_is_refused(served: Served) -> None:
    for _ in range(2):
        assert served.ask("hurt").status_code == 200
        pid = served.pid()
        assert "SIGKILL" in long_answer(served, "five six", lambda pid=pid: os.kill(pid, signal.SIGKILL))
    assert "stopped 2 times" in long_answer(served, "five six", lambda: None)
    check_all_is_well(served)
