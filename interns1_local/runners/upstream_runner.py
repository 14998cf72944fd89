"""A model that another server computes (LMDeploy, vLLM, SGLang, one of ours), in the place of a worker process."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from interns1_local.config import Settings
from interns1_local.engine.adaptation import FIRST, Adaptation
from interns1_local.errors import BadRequest, Busy, ContextOverflow, Forbidden, Unsupported, UpstreamError
from interns1_local.runners.model_spec import ModelFacts, ModelSpec
from interns1_local.store.upstream import is_allowed, require_safe_scheme

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
MODELS_SECONDS = 10.0
MAX_LINE = 16 << 20
MAX_ANSWER = 256 << 20
SHOWN_CHARACTERS = 2000
# What of an error's text tells that a prompt is too long: the engines have no code for it in common.
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context length", "exceeds the available context")
_log = logging.getLogger("interns1_local.runners")

# Nobody knows before asking what such a model can do: it is said to be able, and its engine refuses what it cannot.
UPSTREAM_FACTS = ModelFacts(
    architecture="upstream",
    parameter_count=0,
    context_length=0,
    embedding_length=0,
    quantization="unknown",
    chat_template=None,
    sampling_defaults=MappingProxyType({}),
    capabilities=("completion", "tools", "vision", "thinking"),
    vision=None,
    bos_token="",
    eos_token="",
    kv_bytes_per_token=0,
    metadata=MappingProxyType({}),
    mmproj_metadata=MappingProxyType({}),
)

Json = dict[str, Any]


class UpstreamRunner:
    """A connection to the server of one model. Made by `UpstreamRunner.start`."""

    def __init__(self, spec: ModelSpec, client: httpx.AsyncClient) -> None:
        assert spec.upstream is not None
        self.spec = spec
        self.options = spec.options
        self.model = spec.upstream.model
        self.url = spec.upstream.url
        self.context_length = 0
        self._client = client
        self._closed = False

    @classmethod
    async def start(
        cls, spec: ModelSpec, settings: Settings, on_progress: Callable[[float], None] | None = None
    ) -> UpstreamRunner:
        """See that the server may be asked and is there. Forbidden and UpstreamError say what to do."""
        import httpx  # it brings half a command line

        upstream = spec.upstream
        assert upstream is not None
        if not upstream.named_here and not is_allowed(upstream.url, settings.upstreams):
            raise Forbidden(
                f"{spec.name} would send what it is asked to {upstream.url}, which nobody named on this machine; if "
                f"you trust that server, set INTERNS1_UPSTREAMS={upstream.url} and start the server again"
            )
        await asyncio.to_thread(require_safe_scheme, upstream.url)
        key = settings.upstream_key(upstream.host)
        client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(_limit(settings.upstream_timeout), connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            # A server that answers "ask over there" would be given the prompt of whoever trusts this one.
            follow_redirects=False,
            # http is for private networks only, to which no proxy leads.
            trust_env=upstream.url.startswith("https:"),
        )
        runner = cls(spec, client)
        try:
            await runner._greet()
        except BaseException:
            await runner.close()
            raise
        return runner

    @property
    def alive(self) -> bool:
        return not self._closed

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Json]:
        """The JSON of each server-sent event up to [DONE], which must come or a choice must say that it is finished.

        An answer that is no stream is its only event. Closing the iterator closes the connection.
        """
        finished = False
        request = {"model": self.model, **body, "stream": True}
        async with self._opened("POST", path, request) as response:
            if "json" in response.headers.get("content-type", ""):
                yield self._object(await self._whole(response))
                return
            async with aclosing(_event_data(response, self.url)) as events:
                async for data in events:
                    if data.strip() == b"[DONE]":
                        return
                    event = self._object(data)
                    if event.get("error") or event.get("object") == "error":
                        self._refuse(_status_in(event), data)
                    finished = finished or _is_finished(event)
                    yield event
        if not finished:
            raise UpstreamError(f"{self.url} ended its answer before it was complete; its log says why")

    async def ask(self, path: str, body: Mapping[str, Any]) -> Json:
        """The answer to one request, as a whole."""
        async with self._opened("POST", path, {"model": self.model, **body}) as response:
            return self._object(await self._whole(response))

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], truncate: bool, adaptation: Adaptation = FIRST
    ) -> tuple[npt.NDArray[np.float32], int]:
        """float32[len(inputs), n], as the engine gives them, and the tokens of all inputs together."""
        if not inputs:
            return np.empty((0, 0), np.float32), 0
        answer = await self.ask("embeddings", {"input": list(inputs), "encoding_format": "float"})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            vectors = np.stack([_vector(row["embedding"]) for row in rows])
            if len(vectors) != len(inputs):
                raise ValueError(f"{len(inputs)} texts were sent, {len(vectors)} vectors came back")
            return vectors, int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError(f"{self.url} gave embeddings that cannot be read: {error!r}") from None

    async def describe(self, text: str, stock: bool = False) -> Json:
        self._cannot("tokenize a text")

    async def detokenize(self, ids: Sequence[int]) -> str:
        self._cannot("turn token ids into text")

    async def count(self, parts: Sequence[str | int]) -> int:
        self._cannot("count tokens")

    async def score(self, texts: Sequence[str], adaptation: Adaptation = FIRST) -> tuple[list[float], int]:
        self._cannot("score")

    async def close(self) -> None:
        self._closed = True
        await self._client.aclose()

    def _cannot(self, verb: str) -> NoReturn:
        raise Unsupported(f"{self.spec.name} cannot {verb}: its engine is {self.url}, whose API has no such call")

    async def _greet(self) -> None:
        """Is it there, has it the model, how long is its context. A server that lists no models is taken as it is."""
        try:
            async with asyncio.timeout(MODELS_SECONDS), self._opened("GET", "models", None) as response:
                listed = self._object(await self._whole(response)).get("data")
        except (BadRequest, TimeoutError):
            return
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        found = next((entry for entry in entries if entry.get("id") == self.model), None)
        if found is None:
            if entries:
                names = ", ".join(str(entry.get("id")) for entry in entries[:10])
                # Some engines answer to names that they do not list.
                _log.warning("%s: %s does not list %s; it lists %s", self.spec.name, self.url, self.model, names)
            return
        length = found.get("max_model_len") or found.get("context_length") or 0
        self.context_length = length if isinstance(length, int) and length > 0 else 0

    @asynccontextmanager
    async def _opened(self, method: str, path: str, body: Json | None) -> AsyncIterator[httpx.Response]:
        """The answer's beginning, its status checked. Errors on the way become ours."""
        import httpx

        address = f"{self.url}/{path}"
        try:
            async with self._client.stream(method, address, json=body) as response:
                if response.is_redirect:
                    there = response.headers.get("location", "elsewhere")
                    raise UpstreamError(f"{address} leads to {there}, which is not followed; name that server instead")
                if response.status_code >= 400:
                    self._refuse(response.status_code, await self._whole(response))
                yield response
        except httpx.ConnectError as error:
            raise UpstreamError(
                f"{self.url} cannot be reached ({error}); start its engine, or see whether the URL is right"
            ) from None
        except httpx.TimeoutException as error:
            raise UpstreamError(
                f"{self.url} did not answer in time ({type(error).__name__}; INTERNS1_UPSTREAM_TIMEOUT)"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UpstreamError(f"the connection to {self.url} broke: {error or type(error).__name__}") from None

    async def _whole(self, response: httpx.Response) -> bytes:
        whole = bytearray()
        async for piece in response.aiter_bytes():
            whole += piece
            if len(whole) > MAX_ANSWER:
                raise UpstreamError(f"{self.url} sent an answer of more than {MAX_ANSWER >> 20} MB")
        return bytes(whole)

    def _object(self, data: bytes) -> Json:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            shown = data[:200].decode(errors="replace")
            raise UpstreamError(f"{self.url} does not answer as OpenAI's API does; it sent {shown!r}")
        return value

    def _refuse(self, status: int, body: bytes) -> NoReturn:
        """Raise what the upstream's refusal is here."""
        said = _message_in(body)
        where = f"{self.url} says: {said}" if said else f"{self.url} answered with status {status}"
        if status in (429, 503):
            raise Busy(where)
        if status in (401, 403):
            variable = "INTERNS1_UPSTREAM_KEY"
            raise UpstreamError(f"{where}; its key is read from {variable} (or {variable}_HOST) when our server starts")
        if any(mark in said.lower() for mark in _TOO_LONG):
            raise ContextOverflow(where)
        if 400 <= status < 500:
            hint = f"; this model asks it for {self.model!r}" if status == 404 else ""
            raise BadRequest(where + hint)
        raise UpstreamError(where)


def _limit(seconds: float) -> float | None:
    return seconds if seconds > 0 else None


def _vector(value: Any) -> npt.NDArray[np.float32]:
    # Some engines send base64 whatever they were asked for.
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), "<f4").astype(np.float32)
    return np.asarray(value, np.float32)


def _is_finished(event: Json) -> bool:
    choices = event.get("choices")
    return isinstance(choices, list) and any(isinstance(c, dict) and c.get("finish_reason") for c in choices)


def _status_in(event: Json) -> int:
    error = event.get("error")
    codes = (error.get("code") if isinstance(error, dict) else None, event.get("code"))
    return next((code for code in codes if isinstance(code, int) and 400 <= code < 600), 500)


def _message_in(body: bytes) -> str:
    """The sentence in an error's body: OpenAI's, FastAPI's, or the text as it is."""
    text = body[: 1 << 16].decode(errors="replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text[:SHOWN_CHARACTERS] if not text.startswith("<") else ""
    for key in ("error", "message", "detail"):
        value = found.get(key) if isinstance(found, dict) else None
        if isinstance(value, dict):
            value = value.get("message")
        if value:
            return str(value)[:SHOWN_CHARACTERS]
    return text[:SHOWN_CHARACTERS]


async def _event_data(response: httpx.Response, url: str) -> AsyncGenerator[bytes]:
    """The data of each server-sent event; comments and other fields are passed over."""
    held, data = bytearray(), bytearray()
    async for piece in response.aiter_bytes():
        held += piece
        lines: list[bytearray] = []
        if b"\n" in piece:
            *lines, held = held.split(b"\n")
        if len(held) > MAX_LINE or len(data) > MAX_LINE:
            raise UpstreamError(f"{url} sent an event of more than {MAX_LINE >> 20} MB")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data += (b"\n" if data else b"") + line[5:].removeprefix(b" ")
            elif not line and data:
                yield bytes(data)
                data.clear()
    # The last event may lack the empty line that ends it.
    data += held.removeprefix(b"data:") if held.startswith(b"data:") else b""
    if data:
        yield bytes(data)
