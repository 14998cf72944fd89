"""The worker process: one loaded model behind one socket.

The main thread computes; a reader takes requests in, and ends the process when the server is gone; a writer sends; one
thread makes embeddings and scores, one compiles grammars, and the engine has one for the tiles of pictures.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interns1_local.engine.backend import start_backend
from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.grammar import GrammarCompiler
from interns1_local.engine.guide import CLOSE, Guide, Marks
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import start_numa
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.sampling import SampledToken
from interns1_local.engine.sequence import Tile
from interns1_local.errors import BadRequest, InternS1Error
from interns1_local.runners.compile_queue import CompileQueue
from interns1_local.runners.model_spec import ModelFacts, read_model_facts
from interns1_local.runners.outbox import Outbox
from interns1_local.runners.protocol import (
    Chunk,
    Finish,
    Frame,
    FrameSocket,
    GenerateRequest,
    TokenLogprob,
    chunk_header,
    error_header,
    request_from,
)
from interns1_local.runners.rpc_protocol import watch_connections
from interns1_local.runners.vision_file import fitting_vision_file
from interns1_local.runners.worker_offload import offload_of, spread
from interns1_local.store.adapter import check_adapter
from interns1_local.tokenizer.science import ImageSlot

if TYPE_CHECKING:
    from interns1_local.runners.pooling_service import PoolingService
    from interns1_local.runners.text_codec import TextCodec

PROGRESS_STEP = 0.01


class Worker:
    """The threads of this process and what they share."""

    def __init__(self, connection: FrameSocket) -> None:
        self._connection = connection
        self._outgoing = Outbox()
        self._load_header: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._skip_special: dict[int, bool] = {}
        self._engine: Engine
        self._facts: ModelFacts
        self._codec: TextCodec
        self._tokens_per_tile = 0
        self._marks: Marks | None = None
        self._unload_seconds: float | None = None
        self._pooling: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._grammars: GrammarCompiler | None = None
        self._compile_queue = CompileQueue(self._start, self._abort, self._fail)

    def run(self) -> None:
        """Load what the server names, then compute until the server is gone."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._write, name="writer", daemon=True).start()
        threading.Thread(target=self._pool, name="pooling", daemon=True).start()
        header = self._load_header.get()
        try:
            self._load(header)
        except InternS1Error as error:
            self._outgoing.put(Frame({"op": "load_error", "message": error.message}))
            self._wake.wait()
            return
        self._outgoing.put(Frame({"op": "ready", "context_length": self._engine.n_ctx}))
        while self._unload_seconds is None:
            self._wake.wait()
            self._wake.clear()
            while self._engine.has_work and self._unload_seconds is None:
                outputs = self._engine.step()
                if outputs:
                    self._outgoing.put(*outputs)
        self._engine.store_prefixes(self._unload_seconds)
        os._exit(0)

    def _load(self, header: dict[str, Any]) -> None:
        self._outgoing.interval = header["stream_interval"]
        start_backend(header["debug"])
        options = header["options"]
        start_numa(options["numa"] or "")
        engine_options = EngineOptions(
            n_ctx=options["num_ctx"],
            n_cells=header["n_cells"],
            n_seq_max=options["num_parallel"],
            n_batch=options["num_batch"],
            n_threads=options["num_thread"],
            kv_type=options["kv_cache_type"],
            flash_attention=options["flash_attention"] or "auto",
            backend_sampling=options["backend_sampling"],
            offload=offload_of(options),
            rope_freq_base=options["rope_freq_base"] or 0.0,
            image_cache_bytes=header["image_cache_bytes"],
            adapter_paths=tuple(map(Path, header["adapter_paths"])),
            draft_path=Path(header["draft_path"]) if header["draft_path"] else None,
            prefix_folder=Path(header["prefix_folder"]) if header["prefix_folder"] else None,
            prefix_bytes=header["prefix_bytes"],
        )
        model_path = Path(header["model_path"])
        mmproj_path = Path(header["mmproj_path"]) if header["mmproj_path"] else None
        sidecar_path = Path(header["sidecar_path"]) if header["sidecar_path"] else None
        open_vision = partial(_open_vision, Path(header["cache_dir"]))
        with ThreadPoolExecutor(1) as beside:
            # Python reads the vocabulary while llama.cpp reads the weights. Whoever sent the header has read the facts,
            # so that llama.cpp gets no file that they find fault with.
            facts = beside.submit(read_model_facts, model_path, mmproj_path, sidecar_path)
            codec = beside.submit(lambda: self._text_codec(facts.result()))
            for adapter_path in engine_options.adapter_paths:
                # A pulled model's adapter was checked by nobody yet, and llama.cpp does not check all of it.
                check_adapter(adapter_path, model_path)
            if header["rpc"]:
                engine_options = spread(engine_options, header, facts.result(), model_path.stat().st_size)
            self._engine = Engine(model_path, mmproj_path, engine_options, self._progress(), open_vision)
        watch_connections(header["rpc"])
        self._facts, self._codec = facts.result(), codec.result()
        self._tokens_per_tile = self._count_tile_tokens(self._facts)

    def _text_codec(self, facts: ModelFacts) -> TextCodec:
        # Several tokenizers, which take their time too.
        from interns1_local.runners.text_codec import TextCodec

        return TextCodec(facts.metadata, self._encode_words)

    def _encode_words(self, text: str, parse_special: bool = False) -> list[int]:
        return self._engine.model.vocab.encode(text, parse_special)

    def _count_tile_tokens(self, facts: ModelFacts) -> int:
        if facts.vision is None or self._engine.vision is None:
            return 0
        return self._engine.vision.n_tokens(facts.vision.tile_size)

    def _progress(self) -> Callable[[float], None]:
        sent = -1.0

        def report(value: float) -> None:
            nonlocal sent
            if value - sent >= PROGRESS_STEP or value >= 1.0 > sent:
                sent = value
                self._outgoing.put(Frame({"op": "progress", "value": value}))

        return report

    def _read(self) -> None:
        while (frame := self._connection.receive()) is not None:
            if frame.header["op"] == "load":
                self._load_header.put(frame.header)
                continue
            try:
                self._handle(frame)
            except Exception as error:  # one bad request must not end the others
                self._fail(frame.header.get("id", 0), error)
        # The server is gone, or wants this process gone: nothing here is worth a farewell.
        os._exit(0)

    def _handle(self, frame: Frame) -> None:
        header = frame.header
        match header["op"]:
            case "generate":
                request = request_from(frame)
                start = self._start if request.grammar is None else self._compile_queue.put
                start(header["id"], request)
            case "cancel":
                self._compile_queue.cancel(header["id"])
                self._abort(header["id"])
            case "unload":
                self._unload_seconds = header["seconds"]
                self._engine.interrupt()
                self._wake.set()
            case "tokenize":
                self._reply(header["id"], self._tokenize(header["text"], header["stock"]))
            case "count":
                self._reply(header["id"], self._count(header["parts"]))
            case "embed" | "score":
                self._pooling.put(header)
            case "detokenize":
                data = b"".join(self._codec.token_bytes(int(token), False) for token in header["ids"])
                self._reply(header["id"], data.decode("utf-8", "replace"))

    def _abort(self, request_id: int) -> None:
        self._engine.abort(request_id)
        self._wake.set()

    def _fail(self, request_id: int, error: Exception) -> None:
        self._outgoing.put(Frame(error_header(request_id, error)))

    def _start(self, request_id: int, request: GenerateRequest) -> None:
        self._skip_special[request_id] = request.skip_special_tokens
        try:
            prompt = self._encode(request.prompt)
            guide = self._guide(request)
            self._engine.add_request(
                EngineRequest(
                    request_id, prompt, request.sampling, request.max_tokens, guide, request.prompt_logprobs,
                    request.speculation, request.keep, request.adaptation,
                )
            )  # fmt: skip
        except BaseException:
            del self._skip_special[request_id]
            raise
        self._wake.set()

    def _guide(self, request: GenerateRequest) -> Guide | None:
        rules = request.thought
        has_limits = rules.budget is not None or rules.max_answer_tokens is not None
        if request.grammar is None and not request.forbidden and not has_limits:
            return None
        if self._marks is None:
            pieces = [self._codec.token_bytes(token, False) for token in range(self._engine.model.vocab.n_tokens)]
            closing = self._codec.encode(f"\n{CLOSE.decode()}\n\n")
            closing_ids = [token for token in closing if isinstance(token, int)]
            encode = self._engine.model.vocab.encode
            self._marks = Marks.of(pieces, closing_ids, lambda data: encode(data.decode("utf-8", "ignore")))
        matcher = None
        if request.grammar is not None:
            if self._grammars is None:
                eog = self._engine.model.vocab.eog_ids
                self._grammars = GrammarCompiler(self._marks.pieces, self._codec.mark_ids, eog)
            matcher = self._grammars.matcher(request.grammar)
        return Guide(rules, self._marks, matcher, request.grammar_after, request.forbidden)

    def _encode(self, prompt: Any) -> list[int | Tile]:
        if not isinstance(prompt, str) and prompt and all(isinstance(part, int) for part in prompt):
            return list(prompt)
        images = [] if isinstance(prompt, str) else [part for part in prompt if not isinstance(part, str)]
        if any(isinstance(image, int) for image in images):
            raise BadRequest("a prompt is either token ids or texts and images")
        slots = iter(range(len(images)))
        parts = prompt
        if not isinstance(prompt, str):
            parts = [part if isinstance(part, str) else ImageSlot(next(slots)) for part in prompt]
        encoded: list[int | Tile] = []
        for item in self._codec.encode(parts):
            if isinstance(item, ImageSlot):
                encoded += [self._engine.tile(tile, self._tokens_per_tile) for tile in images[item.index]]
            else:
                encoded.append(item)
        return encoded

    def _tokenize(self, text: str, stock: bool) -> dict[str, Any]:
        found = self._codec.describe(text, stock)
        return {"content": found.content, "tokens": found.tokens}

    def _count(self, parts: list[str | int]) -> int:
        """Places in the context of texts and of pictures, of which the tiles are counted."""
        slots = [ImageSlot(index) if isinstance(part, int) else part for index, part in enumerate(parts)]
        tiles = {index: part for index, part in enumerate(parts) if isinstance(part, int)}
        encoded = self._codec.encode(slots)
        return sum(tiles[item.index] * self._tokens_per_tile if isinstance(item, ImageSlot) else 1 for item in encoded)

    def _pool(self) -> None:
        """Embeddings and scores, in a thread and a context of their own: answers go on beside them."""
        service: PoolingService | None = None
        while True:
            header = self._pooling.get()
            try:
                if service is None:
                    # Few models are asked for embeddings.
                    from interns1_local.runners.pooling_service import PoolingService

                    service = PoolingService(self._engine.model, self._engine.options, self._codec, self._facts)
                self._reply(header["id"], service.answer(header))
            except Exception as error:  # one bad request must not end the others
                self._outgoing.put(Frame(error_header(header["id"], error)))

    def _reply(self, request_id: int, value: Any) -> None:
        self._outgoing.put(Frame({"op": "reply", "id": request_id, "value": value}))

    def _write(self) -> None:
        while True:
            items = self._outgoing.take()
            frames = [item for item in items if isinstance(item, Frame)]
            try:
                for frame in (*frames, *self._frames([item for item in items if not isinstance(item, Frame)])):
                    self._connection.send(frame)
            except OSError:
                os._exit(0)

    def _frames(self, outputs: list[StepOutput]) -> list[Frame]:
        """One frame for all chunks, then one for each request that failed."""
        headers, blobs, failed = [], [], []
        for output in outputs:
            if output.error is not None:
                self._skip_special.pop(output.request_id, None)
                failed.append(Frame(error_header(output.request_id, output.error)))
                continue
            chunk = self._chunk(output)
            headers.append(chunk_header(output.request_id, chunk))
            blobs.append(chunk.data)
        return [Frame({"op": "chunks", "chunks": headers}, tuple(blobs)), *failed] if headers else failed

    def _chunk(self, output: StepOutput) -> Chunk:
        skip = self._skip_special.get(output.request_id, True)
        data = b"".join(self._codec.token_bytes(token, skip) for token in output.token_ids)
        logprobs = [self._logprob(entry) for entry in output.logprobs] or None
        scores = [self._logprob(entry) for entry in output.prompt_logprobs] or None
        finish = None
        if output.finish is not None and output.usage is not None:
            usage = output.usage
            self._skip_special.pop(output.request_id, None)
            finish = Finish(
                output.finish, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens,
                usage.prompt_seconds, usage.decode_seconds, usage.thought_tokens, usage.tiles_computed,
                usage.drafted_tokens, usage.accepted_tokens,
            )  # fmt: skip
        return Chunk(list(output.token_ids), data, logprobs, finish, output.prompt, scores, output.drafts)

    def _logprob(self, sampled: SampledToken) -> TokenLogprob:
        def entry(token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            # JSON has no infinity.
            return TokenLogprob(token, self._codec.token_bytes(token, False), max(logprob, -1e9), top)

        alternatives = tuple(entry(other.id, other.logprob) for other in sampled.top)
        return entry(sampled.chosen.id, sampled.chosen.logprob, alternatives)


def _open_vision(cache_folder: Path, path: Path, *rest: Any) -> VisionEncoder:
    with fitting_vision_file(path, cache_folder) as fitting:
        assert fitting is not None
        return VisionEncoder(fitting, *rest)


def connect(address: str) -> socket.socket:
    """The socket to the server: an inherited descriptor, or `tcp:PORT` on this machine with the token as greeting."""
    if not address.startswith("tcp:"):
        return socket.socket(fileno=int(address))
    connection = socket.create_connection(("127.0.0.1", int(address.removeprefix("tcp:"))))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(bytes.fromhex(os.environ.pop("INTERNS1_WORKER_TOKEN")))
    return connection


def main(arguments: list[str]) -> None:
    Worker(FrameSocket(connect(arguments[0]))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
