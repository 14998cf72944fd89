"""The GGUF's side of `interns1 verify`: our template, tokenizer and tiles, and llama.cpp's numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from interns1_local.chat.message import Image, Message, Text
from interns1_local.chat.template import ChatTemplate, MediaRef
from interns1_local.config import load_settings
from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.scoring import BATCH, Matrix, Parts, Scorer
from interns1_local.engine.sequence import Tile
from interns1_local.errors import LoadError
from interns1_local.media.image import load_image, tile_image
from interns1_local.media.wishes import TileSpec
from interns1_local.runners.model_spec import VisionFacts, read_model_facts
from interns1_local.runners.text_codec import TextCodec
from interns1_local.runners.vision_file import fitting_vision_file
from interns1_local.tokenizer.science import ImageSlot
from quant.splits import read_model

Pixels = NDArray[np.uint8]
EXACT_TYPE = "F32"
_BLOCK = 1 << 20


class GGUFSide:
    """A model file, and its vision file if there is one, on the CPU."""

    def __init__(self, model_path: Path, mmproj_path: Path | None, n_threads: int) -> None:
        for path in filter(None, (model_path, mmproj_path)):
            if not path.is_file():
                raise LoadError(f"there is no file {path} (a GGUF file is expected)")
        self.facts = read_model_facts(model_path, mmproj_path)
        self.files = model_files(model_path)
        self.types = tensor_types(model_path)
        self.mmproj_types = {} if mmproj_path is None else tensor_types(mmproj_path)
        self._threads = n_threads
        self._mmproj_path = mmproj_path
        self._model = Model(model_path, ON_CPU)
        self._scorer: Scorer | None = None
        self._codec = TextCodec(self.facts.metadata, self._model.vocab.encode)

    @property
    def n_vocab(self) -> int:
        return self._model.vocab.n_tokens

    @property
    def is_exact(self) -> bool:
        """Whether every tensor keeps all of the checkpoint's bits."""
        return set(self.types) == {EXACT_TYPE}

    @property
    def vision_is_exact(self) -> bool:
        return set(self.mmproj_types) == {EXACT_TYPE}

    @property
    def reward(self) -> tuple[int, NDArray[np.float32]] | None:
        """The reward token and the row of weights that scores its state; None for other models."""
        fields = self.facts.metadata
        if "interns1.reward.v_head" not in fields:
            return None
        return int(fields["interns1.reward.token_id"]), np.asarray(fields["interns1.reward.v_head"], np.float32)

    @cached_property
    def vision(self) -> VisionFacts:
        if self.facts.vision is None:
            raise LoadError(f"{self._mmproj_path} does not say how large its pictures are; is it a vision file?")
        return self.facts.vision

    @cached_property
    def _encoder(self) -> VisionEncoder:
        assert self._mmproj_path is not None
        # As the worker opens it: what is judged is what an answer is made from.
        with fitting_vision_file(self._mmproj_path, load_settings().cache_dir) as path:
            assert path is not None
            return VisionEncoder(path, self._model, self._threads, use_gpu=False)

    def ids(self, text: str) -> list[int]:
        """Ids of a text, as the runners read it."""
        return [id for id in self._codec.encode(text) if isinstance(id, int)]

    def chat(self, messages: Sequence[dict[str, Any]], picture: bytes = b"", *, answer: bool = True) -> list[Any]:
        """Ids of a conversation in the file's own template, with an ImageSlot for a picture in the last message."""
        if self.facts.chat_template is None:
            raise LoadError("the GGUF has no chat template")
        template = ChatTemplate(
            self.facts.chat_template, bos_token=self.facts.bos_token, eos_token=self.facts.eos_token
        )
        turns = [Message(turn["role"], (Text(turn["content"]),)) for turn in messages]
        if picture:
            turns[-1] = Message(turns[-1].role, (Image(picture), *turns[-1].content))
        rendered = template.render(turns, add_generation_prompt=answer)
        return self._codec.encode([ImageSlot(0) if isinstance(part, MediaRef) else part for part in rendered])

    def logits(self, parts: Parts) -> Matrix:
        """float32 [positions, vocabulary]."""
        return self._scorer_for(sum(map(len, parts))).logits(parts)

    def state_and_score(self, ids: Sequence[int]) -> tuple[Matrix, float]:
        """A reward model's state [hidden] at the last of `ids`, and its score there."""
        assert self.reward is not None
        state = self._scorer_for(len(ids), pooled=True).state(ids)
        return state, float(state @ self.reward[1])

    def tiles(self, picture: bytes) -> Pixels:
        """uint8 [tiles, side, side, 3]."""
        facts = self.vision
        spec = TileSpec(facts.tile_size, facts.min_patches, facts.max_patches, facts.use_thumbnail)
        return tile_image(load_image(picture), spec)

    def embeddings(self, tiles: Pixels) -> Matrix:
        """float32 [tiles x tokens per tile, hidden]."""
        count = self._encoder.n_tokens(tiles.shape[1])
        return np.concatenate([self._encoder.encode(Tile.of(tile, count)) for tile in tiles])

    def close(self) -> None:
        if self._scorer is not None:
            self._scorer.close()
        if "_encoder" in self.__dict__:
            self._encoder.close()
        self._model.close()

    def _scorer_for(self, length: int, *, pooled: bool = False) -> Scorer:
        """The scorer that is open when it takes texts of `length`, else another one."""
        if self._scorer is None or self._scorer.n_ctx < length:
            if self._scorer is not None:
                self._scorer.close()
                self._scorer = None
            rounded = -(-max(length, 2 * BATCH) // BATCH) * BATCH
            self._scorer = Scorer(self._model, rounded, self._threads, exact=True, pooled=pooled)
        return self._scorer


def tensor_types(path: Path) -> dict[str, int]:
    """How many tensors of each type a model has, most first; parts of a model in parts are counted together."""
    counts: dict[str, int] = {}
    for tensor in read_model(path).tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def model_files(path: Path) -> list[Path]:
    """The files of a model: itself, or all of its parts."""
    return sorted({cast(Path, tensor.path) for tensor in read_model(path, arrays=False).tensors} | {path})


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
