"""A runner that answers from a script, and a tiny GGUF file for it to be loaded from."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from interns1_local.config import Settings
from interns1_local.errors import ContextOverflow
from interns1_local.runners.model_spec import ModelSpec
from interns1_local.runners.protocol import Chunk, Finish, GenerateRequest, TokenLogprob

CHAT_TEMPLATE = (
    "{%- if tools %}<|action_start|><|plugin|>{{ tools | length }}{% endif -%}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<IMG_CONTEXT>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endif %}{# </think> #}"
)
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
TOKENS = ("<|im_start|>", "<|im_end|>", "a", "b", "c", "d")

Item = str | bytes | Exception


class FakeRunner:
    """One loaded model. Every request takes the next script; a script is what comes chunk by chunk."""

    def __init__(self, spec: ModelSpec, backend: FakeBackend) -> None:
        self.spec = spec
        self.options = spec.options
        self.context_length = spec.options.num_ctx or 4096
        self.alive = True
        self._backend = backend

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[Chunk]]:
        async with aclosing(self._chunks(request)) as chunks:
            async for chunk in chunks:
                yield [chunk]

    async def _chunks(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self._backend.requests.append(request)
        script = self._backend.scripts.popleft() if self._backend.scripts else ["hello"]
        count = 0
        logprob = self._backend.logprobs.popleft() if self._backend.logprobs else -0.5
        if self._backend.checks_length:
            await self._check_length(request)
        try:
            if request.prompt_logprobs:
                letters = request.prompt if isinstance(request.prompt, str) else "".join(map(chr, request.prompt))  # type: ignore[arg-type]
                scores = [TokenLogprob(ord(char), char.encode(), -0.25 * at) for at, char in enumerate(letters)]
                yield Chunk([], b"", None, None, (7, 3), scores)
            for item in script:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                if item == "<hang>":
                    await asyncio.sleep(60)
                data = item.encode() if isinstance(item, str) else item
                count += 1
                logprobs = None if request.sampling.logprobs is None else [TokenLogprob(count, data, logprob)]
                yield Chunk([count], data, logprobs, None, (7, 3), drafts=self._backend.drafts)
            reason = "length" if request.max_tokens is not None and count >= request.max_tokens else "stop"
            drafted, accepted = self._backend.drafts
            finish = Finish(reason, 7, 3, count, 0.5, 0.25, drafted_tokens=drafted, accepted_tokens=accepted)
            yield Chunk([], b"", None, finish)
        finally:
            self._backend.ended += 1

    async def tokenize(self, text: str) -> list[dict[str, Any]]:
        return [
            {"id": ord(char), "piece": char, "domain": None, "start": index, "end": index + 1}
            for index, char in enumerate(text)
        ]

    async def describe(self, text: str, stock: bool = False) -> dict[str, Any]:
        tokens = await self.tokenize(text)
        return {"content": text, "tokens": [{**token, "id": token["id"] + stock} for token in tokens]}

    async def _check_length(self, request: GenerateRequest) -> None:
        parts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        count = await self.count([part if isinstance(part, str) else len(part) for part in parts])  # type: ignore[arg-type]
        if count >= self.context_length:
            raise ContextOverflow(
                f"request ({count} tokens) exceeds the available context size ({self.context_length} tokens), "
                "try increasing it"
            )

    async def count(self, parts: Iterable[str | int]) -> int:
        """A letter is a token, a tile takes ten."""
        return sum(10 * part if isinstance(part, int) else len(part) for part in parts)

    async def detokenize(self, ids: Iterable[int]) -> str:
        return "".join(map(chr, ids))

    async def close(self) -> None:
        self.alive = False
        self._backend.closed.append(self.spec.name)


class FakeBackend:
    """Starts fake runners, and remembers what they were asked."""

    def __init__(self) -> None:
        self.scripts: deque[list[Item]] = deque()
        self.requests: list[GenerateRequest] = []
        # What the tokens of the next requests are given as log-probability, one for each request.
        self.logprobs: deque[float] = deque()
        self.started: list[ModelSpec] = []
        self.closed: list[str] = []
        self.ended = 0
        self.checks_length = False
        # While it is a number, models that start stay at this share of their way into memory.
        self.stuck_at: float | None = None
        # Tokens guessed ahead in each answer, and how many of them came true.
        self.drafts = (0, 0)

    def enqueue(self, *script: Item) -> None:
        self.scripts.append(list(script))

    async def start(self, spec: ModelSpec, settings: Settings, on_progress: Any = None) -> FakeRunner:
        self.started.append(spec)
        while self.stuck_at is not None:
            on_progress(self.stuck_at)
            await asyncio.sleep(0.01)
        return FakeRunner(spec, self)

    @property
    def last(self) -> GenerateRequest:
        return self.requests[-1]

    @property
    def last_text(self) -> str:
        prompt = self.last.prompt
        parts = [prompt] if isinstance(prompt, str) else prompt
        return "".join(part if isinstance(part, str) else f"[{len(part)} tiles]" for part in parts)  # type: ignore[arg-type]


def write_gguf(
    path: Path, template: str | None = CHAT_TEMPLATE, tokens: Sequence[str] = TOKENS, **extra: float
) -> Path:
    """A model file of one tensor, with the metadata that a server reads."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("tiny")
    writer.add_context_length(8192)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    if template is not None:
        writer.add_chat_template(template)
    for key, value in extra.items():
        writer.add_float32(f"general.sampling.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), dtype=np.float16))
    return _close(writer, path)


def write_mmproj(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_uint32("clip.vision.image_size", 56)
    writer.add_uint32("clip.vision.patch_size", 14)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_uint32("interns1.vision.min_patches", 1)
    writer.add_uint32("interns1.vision.max_patches", 4)
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 32), dtype=np.float16))
    return _close(writer, path)


def _close(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
