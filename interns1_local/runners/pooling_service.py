"""Embeddings and scores in the worker: texts in, vectors or figures out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from interns1_local.engine.adaptation import Adaptation
from interns1_local.engine.llama import EngineError, Model
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.pooling import Pooler, framing_tokens
from interns1_local.errors import BadRequest, ContextOverflow, LoadError, Unsupported
from interns1_local.runners.model_spec import ModelFacts
from interns1_local.runners.text_codec import TextCodec

TOO_LONG = "the input length exceeds the context length"


class PoolingService:
    """Made at the first request; one thread calls it."""

    def __init__(self, model: Model, options: EngineOptions, codec: TextCodec, facts: ModelFacts) -> None:
        self._model = model
        self._codec = codec
        self._pooler = Pooler(model, options.n_ctx, options.n_threads, options.kv_type, options.rope_freq_base)
        self._before, self._after = framing_tokens(model)
        self._reward_token = facts.metadata.get("interns1.reward.token_id")
        head = facts.metadata.get("interns1.reward.v_head")
        self._head = None if head is None else np.asarray(head, np.float64)
        if self._head is not None and self._head.shape != (facts.embedding_length,):
            raise LoadError(f"the file's v_head has {self._head.size} numbers; {facts.embedding_length} were expected")

    def answer(self, header: dict[str, Any]) -> dict[str, Any]:
        """The reply to an `embed` or `score` of `Runner`."""
        self._pooler.adapt(self._model.adapters.root(Adaptation(**header["adaptation"])))
        if header["op"] == "score":
            return self._score(header["texts"])
        texts = [self._ids(given, header["truncate"]) for given in header["inputs"]]
        vectors = self._pooler.states(texts)
        data = base64.b64encode(np.ascontiguousarray(vectors).tobytes()).decode()
        return {"shape": list(vectors.shape), "data": data, "tokens": sum(map(len, texts))}

    def _score(self, texts: Sequence[str]) -> dict[str, Any]:
        """The last token's state times the head; the reward token ends every text."""
        if self._head is None or self._reward_token is None:
            raise Unsupported("this model has no head that scores a conversation; InternLM2-Reward has one")
        encoded = [self._plain_ids(text) for text in texts]
        encoded = [ids if ids and ids[-1] == self._reward_token else [*ids, int(self._reward_token)] for ids in encoded]
        for ids in encoded:
            if len(ids) > self._pooler.n_ctx:
                raise ContextOverflow(
                    f"a conversation of {len(ids)} tokens is longer than the context, "
                    f"which has {self._pooler.n_ctx} (option num_ctx)"
                )
        scores = self._pooler.states(encoded).astype(np.float64) @ self._head
        if not np.isfinite(scores).all():
            raise EngineError("a score is not a number: the file's v_head may be damaged")
        return {"scores": scores.tolist(), "tokens": sum(map(len, encoded))}

    def _ids(self, given: str | Sequence[int], truncate: bool) -> list[int]:
        """The tokens of an input: a text within what its vocabulary puts around texts, or ids as they are."""
        if not isinstance(given, str):
            return self._fitting([int(token) for token in given], self._pooler.n_ctx, truncate)
        # An empty text still has a vector: that of one space.
        ids = self._plain_ids(given) or self._plain_ids(" ")
        before = [] if ids[:1] == self._before else self._before
        after = [] if ids[-1:] == self._after else self._after
        room = self._pooler.n_ctx - len(before) - len(after)
        return [*before, *self._fitting(ids, room, truncate), *after]

    def _fitting(self, ids: list[int], room: int, truncate: bool) -> list[int]:
        if len(ids) > room and not truncate:
            raise BadRequest(TOO_LONG)
        return ids[:room]

    def _plain_ids(self, text: str) -> list[int]:
        return [token for token in self._codec.encode(text) if isinstance(token, int)]
