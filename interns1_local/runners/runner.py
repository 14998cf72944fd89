"""The server's side of one worker process: start it, send it requests, stream its answers, see it die, end it."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local import child_python
from interns1_local.config import Settings
from interns1_local.engine.adaptation import FIRST, Adaptation
from interns1_local.errors import InternS1Error, LoadError, WorkerDied
from interns1_local.runners.crash_log import CrashLog
from interns1_local.runners.default_draft import with_default_draft
from interns1_local.runners.devices import this_machine
from interns1_local.runners.fit import Plan
from interns1_local.runners.memory import plan_here, refuse
from interns1_local.runners.model_spec import ModelFacts, ModelSpec, read_model_facts
from interns1_local.runners.protocol import (
    Chunk,
    Frame,
    GenerateRequest,
    chunk_from,
    error_from,
    frame_buffers,
    read_frame,
    request_frame,
)
from interns1_local.runners.rpc_protocol import gone, look_at, parse_endpoints
from interns1_local.runners.worker_process import WorkerProcess

SHOWN_LOG_LINES = 12
CLOSE_SECONDS = 2.0
# For what a worker has read to be written to files, where settings say so.
STORE_SECONDS = 3.0
# Texts of one call: others' come between those of a long list, and a client that left is not worked for much longer.
POOLED_AT_ONCE = 32
DIED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
_log = logging.getLogger("interns1_local.runners")
# Of all workers of this process: a new one is to know what ended the one before it.
crashes = CrashLog()

Progress = Callable[[float], None]


class Runner:
    """One loaded model in its own process. Made by `Runner.start`; usable until `alive` is false."""

    def __init__(self, spec: ModelSpec, facts: ModelFacts, plan: Plan, process: WorkerProcess) -> None:
        self.spec = spec
        self.facts = facts
        self.plan = plan
        self.options = spec.options
        self.context_length = 0
        self._process = process
        self._writer: asyncio.StreamWriter
        self._streams: dict[int, asyncio.Queue[list[Chunk] | InternS1Error]] = {}
        self._requests: dict[int, GenerateRequest] = {}
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._progress: Progress | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False
        self._closing = False
        # Whether the worker is to be asked, at its end, to write down what it has read.
        self._stores_prefixes = False
        self._rpc: tuple[str, ...] = ()
        # Whether each token of an answer is a chunk by itself, however many come in one message.
        self._apart = False

    @classmethod
    async def start(
        cls,
        spec: ModelSpec,
        settings: Settings,
        on_progress: Progress | None = None,
        take_worker: Callable[[], WorkerProcess] = WorkerProcess,
    ) -> Runner:
        """Start a worker for `spec` and wait until the model is loaded. LoadError says why it could not be."""
        # It imports what it needs while the plan is made.
        process = take_worker()
        try:
            runner = await cls._plan(spec, settings, process)
        except BaseException:
            process.kill()
            raise
        runner._progress = on_progress
        try:
            await runner._connect(settings)
            await runner._load(settings)
            this_machine.claim(runner, {runner.plan.ram.name: runner.plan.ram.mapped})
        except BaseException:
            await runner.close()
            raise
        return runner

    @classmethod
    async def _plan(cls, spec: ModelSpec, settings: Settings, process: WorkerProcess) -> Runner:
        """A runner with nothing loaded yet, and its memory claimed. NotEnoughMemory when it does not fit."""
        facts = await asyncio.to_thread(read_model_facts, spec.model_path, spec.mmproj_path, spec.sidecar_path)
        spec = await asyncio.to_thread(with_default_draft, spec, settings)
        endpoints = parse_endpoints(",".join(settings.rpc))
        # llama.cpp ends its process when a worker is not there.
        workers = await asyncio.gather(*(asyncio.to_thread(look_at, endpoint) for endpoint in endpoints))
        plan = await asyncio.to_thread(plan_here, spec, facts, settings, workers)
        warning = refuse(plan, spec.name, spec.options, settings)
        runner = cls(replace(spec, options=plan.options), facts, plan, process)
        runner._rpc = endpoints
        _log.info("%s", plan.line(spec.name))
        this_machine.claim(runner, {use.name: use.total for use in plan.devices})
        for text in (*([warning] if warning else []), *facts.warnings):
            _log.warning("%s: %s", spec.name, text)
        if broken_by := (await asyncio.to_thread(this_machine.machine)).amx_broken_by:
            _log.warning("%s built llama.cpp so that it cannot use AMX: `interns1 doctor` says what to do", broken_by)
        return runner

    @property
    def alive(self) -> bool:
        return not self._ended and not self._closing

    @property
    def pid(self) -> int:
        return self._process.pid

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Chunk]]:
        """The answer's chunks, those together that came in one message; the last one carries `finish`.

        Closing the iterator cancels the request.
        """
        request_id, queue = self._new_id(), asyncio.Queue[list[Chunk] | InternS1Error]()
        frame = request_frame(request_id, request)
        self._require_alive()
        crashes.check(self.spec.digest, request)
        self._streams[request_id], self._requests[request_id] = queue, request
        finished = False
        try:
            await self._send(frame)
            while not finished:
                item = await queue.get()
                if isinstance(item, InternS1Error):
                    finished = True
                    raise item
                finished = item[-1].finish is not None
                if finished:
                    crashes.note_end(self.spec.digest, request)
                yield item
        finally:
            self._streams.pop(request_id, None)
            self._requests.pop(request_id, None)
            if not finished and self.alive:
                self._post(Frame({"op": "cancel", "id": request_id}))

    async def tokenize(self, text: str) -> list[dict[str, Any]]:
        """The tokens of `text`: dicts with id, piece, domain, start and end."""
        return list((await self.describe(text))["tokens"])

    async def describe(self, text: str, stock: bool = False) -> dict[str, Any]:
        """`content`, the text as the model reads it, and its `tokens`; with `stock`, as llama.cpp alone reads it."""
        return dict(await self._ask({"op": "tokenize", "text": text, "stock": stock}))

    async def count(self, parts: Sequence[str | int]) -> int:
        """Places that a prompt takes in the context; a number stands for a picture of so many tiles."""
        return int(await self._ask({"op": "count", "parts": list(parts)}))

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], truncate: bool, adaptation: Adaptation = FIRST
    ) -> tuple[npt.NDArray[np.float32], int]:
        """float32[len(inputs), n_embd], not normalised, and the tokens of all inputs together."""
        vectors, tokens = [], 0
        for start in range(0, len(inputs), POOLED_AT_ONCE):
            some = list(inputs[start : start + POOLED_AT_ONCE])
            asked = {"op": "embed", "inputs": some, "truncate": truncate}
            reply = await self._ask(asked | {"adaptation": asdict(adaptation)})
            vectors.append(np.frombuffer(base64.b64decode(reply["data"]), np.float32).reshape(reply["shape"]))
            tokens += int(reply["tokens"])
        return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), tokens

    async def score(self, texts: Sequence[str], adaptation: Adaptation = FIRST) -> tuple[list[float], int]:
        """The reward of each rendered conversation, and the tokens of all together."""
        scores: list[float] = []
        tokens = 0
        for start in range(0, len(texts), POOLED_AT_ONCE):
            some = list(texts[start : start + POOLED_AT_ONCE])
            reply = await self._ask({"op": "score", "texts": some, "adaptation": asdict(adaptation)})
            scores += reply["scores"]
            tokens += int(reply["tokens"])
        return scores, tokens

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return str(await self._ask({"op": "detokenize", "ids": list(ids)}))

    async def close(self) -> None:
        """End the process; requests still running get WorkerDied."""
        closing, self._closing = self._closing, True
        this_machine.release(self)
        if self._stores_prefixes and not (closing or self._ended):
            self._post(Frame({"op": "unload", "seconds": STORE_SECONDS}))
            with suppress(TimeoutError):
                await self._exited(STORE_SECONDS + CLOSE_SECONDS)
        if hasattr(self, "_writer"):
            self._writer.close()
        self._process.close()
        try:
            await self._exited(CLOSE_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._exited(None)
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._end()

    async def _exited(self, seconds: float | None) -> None:
        async with asyncio.timeout(seconds):
            await asyncio.wrap_future(self._process.exited)

    async def _connect(self, settings: Settings) -> None:
        self._process.echo = settings.debug
        ours = await asyncio.to_thread(self._process.connect, settings.load_timeout or None)
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._tasks.append(asyncio.create_task(self._read(reader)))

    async def _load(self, settings: Settings) -> None:
        spec = self.spec
        header = {
            "op": "load",
            "model_path": str(spec.model_path),
            "mmproj_path": None if spec.mmproj_path is None else str(spec.mmproj_path),
            "adapter_paths": [str(adapter.path) for adapter in spec.adapters],
            "draft_path": None if spec.draft_path is None else str(spec.draft_path),
            "sidecar_path": None if spec.sidecar_path is None else str(spec.sidecar_path),
            "cache_dir": str(settings.cache_dir),
            "options": asdict(spec.options),
            "n_cells": self.plan.n_cells,
            "image_cache_bytes": settings.image_cache << 20,
            "prefix_folder": None if settings.prefix_cache_dir is None else str(settings.prefix_cache_dir),
            "prefix_bytes": settings.prefix_cache_size << 20,
            "stream_interval": settings.stream_interval,
            "debug": settings.debug,
            "rpc": self._rpc,
        }
        await self._send(Frame(header))
        timeout = settings.load_timeout if settings.load_timeout > 0 else None
        try:
            async with asyncio.timeout(timeout):
                facts = await asyncio.shield(self._ready)
        except TimeoutError:
            raise LoadError(
                f"{spec.name} did not load within {timeout:.0f} s (INTERNS1_LOAD_TIMEOUT){self._last_lines()}"
            ) from None
        except WorkerDied as error:
            raise LoadError(f"{spec.name} could not be loaded: {error.message}") from None
        self.context_length = facts["context_length"]
        self._stores_prefixes = settings.prefix_cache_dir is not None
        self._apart = settings.stream_interval == 0

    async def _ask(self, header: dict[str, Any]) -> Any:
        self._require_alive()
        request_id = self._new_id()
        future = self._replies[request_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(Frame(header | {"id": request_id}))
            return await future
        finally:
            self._replies.pop(request_id, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            self._handle(frame)
        code = await asyncio.wrap_future(self._process.exited)
        lost = "" if self._closing else await asyncio.to_thread(gone, self._rpc)
        if not self._closing and not lost:
            for request in self._requests.values():
                crashes.note_crash(self.spec.digest, request)
        self._end(f"{lost or DIED} ({child_python.ending(code)}){self._last_lines()}")

    def _handle(self, frame: Frame) -> None:
        header = frame.header
        match header["op"]:
            case "chunks":
                arrived: dict[int, list[Chunk]] = {}
                for entry, data in zip(header["chunks"], frame.blobs, strict=True):
                    arrived.setdefault(entry["id"], []).append(chunk_from(entry, bytes(data)))
                for request_id, chunks in arrived.items():
                    if (queue := self._streams.get(request_id)) is not None:
                        for part in ([chunk] for chunk in chunks) if self._apart else (chunks,):
                            queue.put_nowait(part)
            case "error":
                self._fail_request(header["id"], error_from(header))
            case "reply":
                if (future := self._replies.get(header["id"])) is not None and not future.done():
                    future.set_result(header["value"])
            case "progress":
                if self._progress is not None:
                    self._progress(header["value"])
            case "ready":
                self._ready.set_result(header)
            case "load_error":
                self._ready.set_exception(LoadError(header["message"]))

    def _fail_request(self, request_id: int, error: InternS1Error) -> None:
        if (queue := self._streams.get(request_id)) is not None:
            queue.put_nowait(error)
        elif (future := self._replies.get(request_id)) is not None and not future.done():
            future.set_exception(error)

    def _end(self, reason: str = DIED) -> None:
        if self._ended:
            return
        self._ended = True
        if not self._ready.done():
            self._ready.set_exception(WorkerDied(reason))
            self._ready.exception()  # read once, so that nobody is told that it never was
        for request_id in [*self._streams, *self._replies]:
            self._fail_request(request_id, WorkerDied(reason))
        if hasattr(self, "_writer"):
            self._writer.close()

    def _last_lines(self) -> str:
        lines = list(self._process.log)[-SHOWN_LOG_LINES:]
        return "\n" + "\n".join(lines) if lines else ""

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _require_alive(self) -> None:
        if not self.alive:
            raise WorkerDied(f"{DIED}{self._last_lines()}")

    def _post(self, frame: Frame) -> None:
        for buffer in frame_buffers(frame):
            self._writer.write(buffer)

    async def _send(self, frame: Frame) -> None:
        self._post(frame)
        with suppress(ConnectionError):
            await self._writer.drain()
