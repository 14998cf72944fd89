"""The servers that are measured beside each other: how each is started, asked and ended, under equal conditions."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import Peers, measure
from benchmarks.serve_client import Answer, ask, get
from benchmarks.serve_models import BenchModel
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName

SIDES = ("ours", "llama-server", "llama_cpp.server")
READY_SECONDS = 120.0
POLL_SECONDS = 0.005
# llama_cpp.server knows no ignore_eos: the ends of gemma's vocabulary are forbidden by their ids.
GEMMA_ENDS = {"1": -100, "106": -100}
# Python keeps what it compiled, as it does for installed packages.
_ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Setup:
    """`slots` requests at once, each of up to `context` tokens."""

    slots: int
    context: int

    @property
    def cells(self) -> int:
        """Of the cache of keys and values, for all requests together."""
        return self.slots * self.context


class Server:
    """One process of one side. `side` is one of SIDES."""

    def __init__(self, side: str, model: BenchModel, setup: Setup, work: Path, threads: int) -> None:
        self.side, self.model, self.setup = side, model, setup
        self.port = free_port()
        self.environ: dict[str, str] = {}
        self.log = work / f"serve-{side}.log"
        prepare = {"ours": self._ours, "llama-server": self._llama_server, "llama_cpp.server": self._llama_cpp_server}
        self.command = [str(part) for part in prepare[side](work, threads)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def shown_command(self) -> str:
        """As one would type it; the port and HOME are left out."""
        names = [f"{name}={value}" for name, value in self.environ.items() if name not in ("HOME", "INTERNS1_HOST")]
        parts = [Path(part).name if part in (self.command[0], str(self.model.path)) else part for part in self.command]
        return " ".join([*names, *parts]).replace(str(self.port), "PORT")

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        with open(self.log, "wb") as out:
            self._process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=_ENVIRON | self.environ,
            )  # fmt: skip

    async def until_ready(self) -> None:
        """Until it takes questions. Ours loads its model with the first question."""
        path = {"ours": "/", "llama-server": "/health", "llama_cpp.server": "/v1/models"}[self.side]
        deadline = time.monotonic() + READY_SECONDS
        while await get(self.port, path) != 200:
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.side} did not start; the end of {self.log}:\n{self.log.read_text()[-2000:]}")
            await asyncio.sleep(POLL_SECONDS)

    async def start(self) -> None:
        """Start, load, and answer once."""
        self.launch()
        await self.until_ready()
        await self.complete("hello world", 2)

    def stop(self) -> None:
        """End the process and wait for it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    async def complete(
        self, prompt: str, n_tokens: int, answer: Answer | None = None, options: dict[str, Any] | None = None
    ) -> Answer:
        """`prompt` continued by `n_tokens` tokens, greedily. `options` are ours."""
        body = self._body(n_tokens) | {"prompt": prompt} | ({"options": options} if options else {})
        return await ask(self.port, "/v1/completions", body, answer)

    async def look(self, question: str, picture: str) -> Answer:
        """A question on a picture."""
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": question},
        ]
        body = self._body(4) | {"messages": [{"role": "user", "content": content}]}
        return await ask(self.port, "/v1/chat/completions", body)

    def _body(self, n_tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model.name, "max_tokens": n_tokens, "temperature": 0, "stream": True}
        if self.side != "llama_cpp.server":
            return body | {"ignore_eos": True, "stream_options": {"include_usage": True}}
        return body | ({"logit_bias": GEMMA_ENDS} if self.model.name == "gemma" else {})

    def _ours(self, work: Path, threads: int) -> list[Any]:
        # Ours shares the cells of four contexts among all requests; it is given no more of them than the peers.
        context = max(self.setup.context, self.setup.cells // min(self.setup.slots, 4))
        self.environ = {
            "HOME": str(work / "home"),
            "INTERNS1_MODELS": str(work / "models"),
            "INTERNS1_HOST": f"127.0.0.1:{self.port}",
            "INTERNS1_NUM_PARALLEL": str(self.setup.slots),
            "INTERNS1_CONTEXT_LENGTH": str(context),
            "INTERNS1_THREADS": str(threads),
        }
        return [sys.executable, "-m", "interns1_local.commands", "serve"]

    def _llama_server(self, work: Path, threads: int) -> list[Any]:
        sees = ["--mmproj", self.model.mmproj] if self.model.mmproj else []
        size = ["-c", self.setup.cells, "-np", self.setup.slots, "-t", threads, "-tb", threads]
        return [Peers(work).tool("llama-server"), "-m", self.model.path, *sees, *size, "--port", self.port]

    def _llama_cpp_server(self, work: Path, threads: int) -> list[Any]:
        size = ["--n_ctx", max(self.setup.context, 2048), "--n_threads", threads, "--n_threads_batch", threads]
        wait = ["--interrupt_requests", "False"]  # else a second client ends the first one's answer
        program = llama_cpp_server_python(work)
        return [program, "-m", "llama_cpp.server", "--model", self.model.path, *size, *wait, "--port", self.port]


def llama_cpp_server_python(work: Path) -> Path:
    """The Python of an environment with what llama-cpp-python's server needs, and with our llama-cpp-python."""
    folder = work / "llama_cpp_server"
    program = folder / "bin" / "python"
    path = next(iter((folder / "lib").glob("python*/site-packages")), None)
    if path is None or not (path / "ours.pth").exists():
        print(f"making the environment {folder}", flush=True)
        needed = importlib.metadata.requires("llama-cpp-python") or []
        wanted = [text.split(";")[0].strip() for text in needed if 'extra == "server"' in text or "extra" not in text]
        measure([sys.executable, "-m", "venv", folder], work / "venv.log")
        measure([program, "-m", "pip", "install", "--quiet", *wanted], work / "venv.log")
        path = next((folder / "lib").glob("python*/site-packages"))
        (path / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    return program


def store_ours(model: BenchModel, work: Path) -> None:
    """Put `model` into the store of our server."""
    manifest = work / "models" / f"{model.name}.stored"
    stamp = f"{model.path.stat().st_size} {model.path.stat().st_mtime_ns}"
    if manifest.exists() and manifest.read_text() == stamp:
        return
    files = {path.name: path for path in (model.path, model.mmproj) if path}
    create(ModelStore(work / "models"), ModelName.parse(model.name), ModelPlan(files=files))
    (work / "home").mkdir(exist_ok=True)
    manifest.write_text(stamp)


def bench(model: BenchModel, work: Path, threads: int, n_tokens: int) -> float:
    """Tokens a second of llama-bench's tg test, once."""
    command = [Peers(work).tool("llama-bench"), "-m", model.path, "-t", threads, "-p", 0, "-n", n_tokens, "-r", 1]
    found = subprocess.run([*map(str, command), "-o", "csv"], capture_output=True, text=True, check=True).stdout
    head, line = (text.split(",") for text in found.strip().splitlines()[-2:])
    return float(line[[name.strip('"') for name in head].index("avg_ts")].strip('"'))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
