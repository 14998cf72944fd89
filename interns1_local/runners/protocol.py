"""What crosses the socket between the server and a worker: requests, chunks, and the frames that carry them.

A frame is `u32 header length, u32 number of blobs`, the header as JSON, then `u64 length, bytes` for each blob.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from interns1_local import errors
from interns1_local.engine.adaptation import FIRST, Adaptation
from interns1_local.engine.guide import ThoughtRules
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.speculative import SPECULATE, Speculation

if TYPE_CHECKING:
    import asyncio  # the worker has no event loop

MAX_HEADER = 256 * 2**20
MAX_BLOBS = 4096
MAX_BLOB = 2**31

_PREFIX = struct.Struct("<II")
_LENGTH = struct.Struct("<Q")
_ERROR_CLASSES: dict[str, type[errors.InternS1Error]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.InternS1Error)
}

Tiles = npt.NDArray[np.uint8]
Prompt = str | Sequence[str | Tiles] | Sequence[int]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One answer to make.

    `prompt` is a text (special tokens in it count), a list of texts and images, each image being its tiles as
    uint8[n, size, size, 3] in order, or token ids. `max_tokens` None means up to the end of the context. `grammar` is
    one of llguidance, which the answer follows after its thought, or, with `grammar_after`, what follows that mark each
    time that it comes. `forbidden` is a mark that may not come after the thought. `prompt_logprobs`: the first chunk
    reports the prompt's own tokens, with as many alternatives as `sampling` says. `keep`: when the context is full, the
    answer goes on without the older half of what follows so many tokens (-1: the prompt's); None: it ends.
    """

    prompt: Prompt
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    skip_special_tokens: bool = True
    thought: ThoughtRules = field(default_factory=ThoughtRules)
    grammar: str | None = None
    grammar_after: str = ""
    forbidden: str = ""
    prompt_logprobs: bool = False
    speculation: Speculation = SPECULATE
    keep: int | None = None
    adaptation: Adaptation = FIRST


@dataclass(frozen=True, slots=True)
class Finish:
    """Why generation ended ("stop", "length" or "cancelled") and what it cost."""

    reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    thought_tokens: int = 0
    # Tiles that went through the vision tower; None where that is not known.
    tiles_computed: int | None = None
    # Tokens that were guessed ahead, and how many of them the model then chose.
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its bytes and natural log-probability; `top` holds the alternatives, best first."""

    id: int
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some new tokens: their ids and bytes. UTF-8 may be cut between chunks. The last chunk carries `finish`.

    `prompt` are the tokens of the prompt and how many of them were cached. `prompt_logprobs` are the prompt's tokens;
    nothing comes before the first, so its log-probability is 0 and means nothing. `drafts` are the tokens guessed ahead
    so far and how many of them came true; once there is a `finish`, that says it.
    """

    ids: list[int]
    data: bytes
    logprobs: list[TokenLogprob] | None = None
    finish: Finish | None = None
    prompt: tuple[int, int] = (0, 0)
    prompt_logprobs: list[TokenLogprob] | None = None
    drafts: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a JSON object and raw blobs."""

    header: dict[str, Any]
    blobs: tuple[bytes | memoryview, ...] = ()


def frame_buffers(frame: Frame) -> list[bytes | memoryview]:
    """The frame as buffers to be written in order."""
    header = json.dumps(frame.header, separators=(",", ":")).encode()
    buffers: list[bytes | memoryview] = [_PREFIX.pack(len(header), len(frame.blobs)) + header]
    for blob in frame.blobs:
        buffers += [_LENGTH.pack(len(blob)), blob]
    return buffers


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame, or None when the other side is gone."""
    try:
        header_length, n_blobs = _checked_prefix(await reader.readexactly(_PREFIX.size))
        header = json.loads(await reader.readexactly(header_length))
        blobs = []
        for _ in range(n_blobs):
            blobs.append(await reader.readexactly(_checked_length(await reader.readexactly(_LENGTH.size))))
    except (EOFError, ConnectionError):
        return None
    return Frame(header, tuple(blobs))


class FrameSocket:
    """Blocking frames over a connected socket; one thread may receive while another sends."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb", buffering=1 << 16)

    def receive(self) -> Frame | None:
        """The next frame, or None when the other side is gone."""
        try:
            header_length, n_blobs = _checked_prefix(self._exactly(_PREFIX.size))
            header = json.loads(self._exactly(header_length))
            blobs = tuple(self._exactly(_checked_length(self._exactly(_LENGTH.size))) for _ in range(n_blobs))
        except (EOFError, OSError):
            return None
        return Frame(header, blobs)

    def send(self, frame: Frame) -> None:
        buffers = frame_buffers(frame)
        small = b"".join(buffers) if sum(len(buffer) for buffer in buffers) < 1 << 16 else None
        if small is not None:
            self._socket.sendall(small)
            return
        for buffer in buffers:
            self._socket.sendall(buffer)

    def _exactly(self, count: int) -> bytes:
        data: bytes = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data


def request_frame(request_id: int, request: GenerateRequest) -> Frame:
    """`request` as a frame; images travel as raw blobs."""
    parts: list[Any] = []
    blobs: list[bytes | memoryview] = []
    whole = isinstance(request.prompt, str)
    for part in [request.prompt] if isinstance(request.prompt, str) else request.prompt:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, np.ndarray):
            tiles = np.ascontiguousarray(_checked_tiles(part))
            parts.append({"shape": list(tiles.shape)})
            blobs.append(tiles.data.cast("B"))
        else:
            parts.append(int(part))
    header = {
        "op": "generate",
        "id": request_id,
        "prompt": parts,
        "whole": whole,
        "sampling": request.sampling.to_json(),
        "max_tokens": request.max_tokens,
        "skip_special_tokens": request.skip_special_tokens,
        "thought": asdict(request.thought),
        "grammar": request.grammar,
        "grammar_after": request.grammar_after,
        "forbidden": request.forbidden,
        "prompt_logprobs": request.prompt_logprobs,
        "speculation": asdict(request.speculation),
        "keep": request.keep,
        "adaptation": asdict(request.adaptation),
    }
    return Frame(header, tuple(blobs))


def request_from(frame: Frame) -> GenerateRequest:
    """The request that `request_frame` packed."""
    blobs = iter(frame.blobs)
    parts: list[Any] = [
        np.frombuffer(next(blobs), dtype=np.uint8).reshape(part["shape"]) if isinstance(part, dict) else part
        for part in frame.header["prompt"]
    ]
    return GenerateRequest(
        prompt=parts[0] if frame.header["whole"] else parts,
        sampling=SamplingParams.from_json(frame.header["sampling"]),
        max_tokens=frame.header["max_tokens"],
        skip_special_tokens=frame.header["skip_special_tokens"],
        thought=ThoughtRules(**frame.header["thought"]),
        grammar=frame.header["grammar"],
        grammar_after=frame.header["grammar_after"],
        forbidden=frame.header["forbidden"],
        prompt_logprobs=frame.header["prompt_logprobs"],
        speculation=Speculation(**frame.header["speculation"]),
        keep=frame.header["keep"],
        adaptation=Adaptation(**frame.header["adaptation"]),
    )


def chunk_header(request_id: int, chunk: Chunk) -> dict[str, Any]:
    """`chunk` without its bytes, which travel as a blob."""
    header: dict[str, Any] = {"id": request_id, "ids": chunk.ids, "prompt": chunk.prompt}
    if chunk.logprobs is not None:
        header["logprobs"] = [_logprob_json(entry) for entry in chunk.logprobs]
    if chunk.prompt_logprobs is not None:
        header["prompt_logprobs"] = [_logprob_json(entry) for entry in chunk.prompt_logprobs]
    if any(chunk.drafts):
        header["drafts"] = chunk.drafts
    if chunk.finish is not None:
        header["finish"] = asdict(chunk.finish)
    return header


def chunk_from(header: dict[str, Any], data: bytes) -> Chunk:
    """The chunk that `chunk_header` packed."""
    finish = header.get("finish")
    return Chunk(
        ids=header["ids"],
        data=data,
        logprobs=_logprobs_from(header.get("logprobs")),
        finish=None if finish is None else Finish(**finish),
        prompt=(header["prompt"][0], header["prompt"][1]),
        prompt_logprobs=_logprobs_from(header.get("prompt_logprobs")),
        drafts=tuple(header.get("drafts", (0, 0))),
    )


def error_header(request_id: int, error: Exception) -> dict[str, Any]:
    """An error for one request; anything that is not ours is an internal error."""
    code = error.code if isinstance(error, errors.InternS1Error) else errors.InternS1Error.code
    message = str(error) or type(error).__name__
    return {"op": "error", "id": request_id, "code": code, "message": message}


def error_from(header: dict[str, Any]) -> errors.InternS1Error:
    """The error that `error_header` packed."""
    return _ERROR_CLASSES.get(header["code"], errors.InternS1Error)(header["message"])


def _logprob_json(entry: TokenLogprob) -> list[Any]:
    return [entry.id, entry.data.decode("latin-1"), entry.logprob, [_logprob_json(other) for other in entry.top]]


def _logprobs_from(entries: list[list[Any]] | None) -> list[TokenLogprob] | None:
    return None if entries is None else [_logprob_from(entry) for entry in entries]


def _logprob_from(values: list[Any]) -> TokenLogprob:
    return TokenLogprob(values[0], values[1].encode("latin-1"), values[2], tuple(_logprob_from(v) for v in values[3]))


def _checked_tiles(tiles: npt.NDArray[Any]) -> Tiles:
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or 0 in tiles.shape:
        raise errors.BadRequest(
            f"an image must be uint8[tiles, height, width, 3]; it is {tiles.dtype}{list(tiles.shape)}"
        )
    return tiles


def _checked_prefix(data: bytes) -> tuple[int, int]:
    header_length, n_blobs = _PREFIX.unpack(data)
    if header_length > MAX_HEADER or n_blobs > MAX_BLOBS:
        raise EOFError(f"a frame of {header_length} bytes with {n_blobs} blobs is no frame of ours")
    return header_length, n_blobs


def _checked_length(data: bytes) -> int:
    (length,) = _LENGTH.unpack(data)
    if length > MAX_BLOB:
        raise EOFError(f"a blob of {length} bytes is no blob of ours")
    return int(length)
