"""Measuring a model on files: finding it, reading every piece of data, and what each weight is multiplied with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from interns1_local.chat.go_template import is_go_template, jinja_twin
from interns1_local.chat.template import ChatTemplate
from interns1_local.commands.calibration_data import (
    CalibrationData,
    Piece,
    VisionSpec,
    is_picture,
    length,
    take_in_turn,
)
from interns1_local.config import load_settings
from interns1_local.engine.activations import PromptReader, Sink
from interns1_local.engine.llama import Aborted, Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.scoring import leading_token
from interns1_local.errors import ModelNotFound, Unsupported
from interns1_local.media.wishes import TileSpec
from interns1_local.runners.memory import physical_cores
from interns1_local.runners.model_spec import ModelFacts, read_model_facts
from interns1_local.runners.text_codec import TextCodec
from interns1_local.runners.vision_file import fitting_vision_file
from interns1_local.store.model_store import ModelStore
from interns1_local.store.nano import is_nano, pull_nano

# Called with the pieces that are read and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's files, and the template that its Modelfile puts in place of the file's own."""

    model: Path
    mmproj: Path | None
    template: str = ""
    sidecar: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """How much was read."""

    pieces: int
    tokens: int


def find_model(name: str, mmproj: Path | None) -> ModelFiles:
    """The files of a GGUF path or of a name in the store; the shipped model is made on its first use."""
    if Path(name).is_file():
        return ModelFiles(Path(name), mmproj)
    if name.lower().endswith(".gguf"):
        raise ModelNotFound(f"there is no file {name}; a GGUF file or the name of a model in the store is expected")
    store = ModelStore(load_settings().models_dir)
    if store.find(name) is None:
        if not is_nano(name):
            raise ModelNotFound(
                f"there is no file and no model '{name}'; 'interns1 list' shows the models, 'interns1 pull' gets one"
            )
        pull_nano(store)
    stored = store.resolve(name)
    return ModelFiles(stored.model_path, mmproj or stored.mmproj_path, stored.template, stored.sidecar_path)


def measure(
    files: ModelFiles,
    data: Sequence[Path],
    sink: Sink,
    *,
    chunk: int,
    max_pieces: int | None = None,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Measured:
    """Read `data` with the model and show `sink` the input of each weight. Ctrl-C is a KeyboardInterrupt."""
    # The vision tower of a large model takes gigabytes: it is loaded for pictures only.
    mmproj = files.mmproj if any(is_picture(path) for path in data) else None
    facts = read_model_facts(files.model, mmproj, files.sidecar)
    n_threads = threads or load_settings().threads or physical_cores()
    with _ctrl_c() as stopped:
        model = Model(files.model)
        stopped.check()
    vision = None
    try:
        with fitting_vision_file(mmproj, load_settings().cache_dir) as path:
            vision = None if path is None else VisionEncoder(path, model, n_threads)
        source = CalibrationData(
            TextCodec(facts.metadata, model.vocab.encode),
            chunk=chunk,
            bos=leading_token(model),
            template=_template(files, facts),
            vision=_vision_spec(facts, vision),
        )
        pieces = list(take_in_turn([source.pieces(path) for path in data], max_pieces))
        n_ctx = max(chunk, *map(length, pieces))
        reader = PromptReader(model, vision, sink, n_ctx=n_ctx, n_batch=chunk, n_threads=n_threads)
        try:
            _read(reader, source, pieces, progress)
        finally:
            reader.close()
    finally:
        if vision is not None:
            vision.close()
        model.close()
    return Measured(len(pieces), sum(map(length, pieces)))


def _read(reader: PromptReader, source: CalibrationData, pieces: Sequence[Piece], progress: Progress) -> None:
    with _ctrl_c(reader.abort) as stopped:
        progress(0, len(pieces))
        for number, piece in enumerate(pieces, 1):
            prompt = source.prompt(piece)
            try:
                reader.read(prompt)
            except Aborted:
                raise KeyboardInterrupt from None
            stopped.check()
            progress(number, len(pieces))


class _Stopped:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def _ctrl_c(stop: Callable[[], None] = lambda: None) -> Iterator[_Stopped]:
    """Ctrl-C calls `stop` and is remembered: an exception could arise inside a call from C, which would swallow it."""
    stopped = _Stopped()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        stopped.asked = True
        stop()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _template(files: ModelFiles, facts: ModelFacts) -> ChatTemplate | None:
    tokens = facts.metadata.get("tokenizer.ggml.tokens") or ()
    own = "" if not files.template or is_go_template(files.template) else files.template
    source = own or facts.chat_template or (jinja_twin(files.template) if files.template else None)
    if source:
        return ChatTemplate(source, bos_token=facts.bos_token, eos_token=facts.eos_token)
    return ChatTemplate.default_interns1() if "<|im_start|>" in tokens else None


def _vision_spec(facts: ModelFacts, encoder: VisionEncoder | None) -> VisionSpec | None:
    if encoder is None:
        return None
    if facts.vision is None:
        raise Unsupported("the vision file (mmproj) does not say how large its pictures are")
    found = facts.vision
    tiles = TileSpec(found.tile_size, found.min_patches, found.max_patches, found.use_thumbnail)
    return VisionSpec(tiles, encoder.n_tokens(found.tile_size))
