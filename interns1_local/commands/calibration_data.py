"""Files of text, molecules, proteins, conversations and pictures as prompts for measuring a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from interns1_local.chat.message import Image, Message, Part, Text, ToolCall
from interns1_local.chat.template import ChatTemplate, MediaRef
from interns1_local.commands.measuring_options import read_text
from interns1_local.engine.sequence import Tile
from interns1_local.errors import BadRequest, InternS1Error, MediaError, Unsupported
from interns1_local.media.image import count_tiles, load_image, tile_image
from interns1_local.media.wishes import TileSpec
from interns1_local.runners.text_codec import TextCodec
from interns1_local.tokenizer.vocabulary import ImageSlot

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MOLECULES = frozenset({".smi", ".smiles"})
PROTEINS = frozenset({".fasta", ".fa"})
CONVERSATIONS = frozenset({".jsonl"})
_ADVICE = f"pictures are known by their names ({', '.join(sorted(PICTURES))})"
QUESTION = "Describe this picture."


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's place in a prompt. Its tiles are made when it is read, so that many do not fill the memory."""

    path: Path
    n_tokens: int


Piece = list[int | Picture]


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """How the model wants its pictures, and how many places a tile takes."""

    tiles: TileSpec
    tokens_per_tile: int


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def length(piece: Piece) -> int:
    """Places that a piece takes in the context."""
    return sum(part.n_tokens if isinstance(part, Picture) else 1 for part in piece)


def take_in_turn(sources: Sequence[Iterator[Piece]], limit: int | None) -> Iterator[Piece]:
    """At most `limit` pieces, one of each source and then again, so that a long file leaves room for the others."""
    waiting = list(sources)

    def turns() -> Iterator[Piece]:
        while waiting:
            for source in list(waiting):
                piece = next(source, None)
                if piece is None:
                    waiting.remove(source)
                else:
                    yield piece

    return islice(turns(), limit)


class CalibrationData:
    """Files to pieces of at most `chunk` tokens; a picture with its question is one piece of any length."""

    def __init__(
        self,
        codec: TextCodec,
        *,
        chunk: int,
        bos: int | None = None,
        template: ChatTemplate | None = None,
        vision: VisionSpec | None = None,
    ) -> None:
        """`bos` is the token that every prompt of the model begins with, if there is one."""
        self._codec = codec
        self._chunk = chunk
        self._start = [] if bos is None else [bos]
        self._template = template
        self._vision = vision

    def pieces(self, path: Path) -> Iterator[Piece]:
        """What is in a file, by the ending of its name."""
        kind = path.suffix.lower()
        if kind in PICTURES:
            found = iter([self._picture(path)])
        elif kind in MOLECULES:
            found = self._joined(f"<SMILES>{smiles}</SMILES>" for smiles in _molecules(read_text(path, _ADVICE)))
        elif kind in PROTEINS:
            found = self._joined(f"<FASTA>{sequence}</FASTA>" for sequence in _sequences(read_text(path, _ADVICE)))
        elif kind in CONVERSATIONS:
            found = self._conversations(path)
        else:
            found = self._cut(self._ids(read_text(path, _ADVICE)))
        first = next(found, None)
        if first is None:
            raise BadRequest(f"{path} is empty: there is nothing in it to measure with; leave it out")
        return chain([first], found)

    def prompt(self, piece: Piece) -> list[int | Tile]:
        """A piece for the engine, with the tiles of its picture."""
        prompt: list[int | Tile] = []
        for part in piece:
            if isinstance(part, int):
                prompt.append(part)
            else:
                vision = self._vision_for(part.path)
                tiles = tile_image(_open(part.path), vision.tiles)
                prompt += [Tile.of(tile, vision.tokens_per_tile) for tile in tiles]
        return prompt

    def _ids(self, text: str) -> list[int]:
        return [token for token in self._codec.encode(text) if isinstance(token, int)]

    def _cut(self, ids: list[int]) -> Iterator[Piece]:
        room = self._chunk - len(self._start)
        if self._start and ids[:1] == self._start:
            ids = ids[1:]
        for start in range(0, len(ids), room):
            yield [*self._start, *ids[start : start + room]]

    def _joined(self, texts: Iterable[str]) -> Iterator[Piece]:
        """Short texts, a line each, as many in a piece as fit."""
        line_end = self._ids("\n")
        room = self._chunk - len(self._start)
        held: list[int] = []
        for text in texts:
            ids = self._ids(text)
            if held and len(held) + len(line_end) + len(ids) > room:
                yield from self._cut(held)
                held = []
            held += [*line_end, *ids] if held else ids
        yield from self._cut(held)

    def _conversations(self, path: Path) -> Iterator[Piece]:
        template = self._template
        if template is None:
            raise Unsupported(f"{path} holds conversations, and the model's file has no chat template to write them in")
        for number, line in enumerate(read_text(path, _ADVICE).splitlines(), 1):
            if not line.strip():
                continue
            messages, tools = _conversation(line, f"{path}, line {number}")
            try:
                answered = messages[-1].role == "assistant"
                parts = template.render(messages, tools=tools, add_generation_prompt=not answered)
            except InternS1Error as error:
                raise BadRequest(f"{path}, line {number}: {error.message}") from error
            yield from self._cut(self._ids("".join(part for part in parts if isinstance(part, str))))

    def _picture(self, path: Path) -> Piece:
        vision = self._vision_for(path)
        width, height = _open(path).size
        picture = Picture(path, count_tiles(width, height, vision.tiles) * vision.tokens_per_tile)
        parts: list[str | MediaRef] = [MediaRef(0), f"\n{QUESTION}"]
        if self._template is not None:
            parts = self._template.render([Message("user", (Image(b""), Text(QUESTION)))])
        encoded = self._codec.encode([part if isinstance(part, str) else ImageSlot(part.index) for part in parts])
        piece: Piece = [part if isinstance(part, int) else picture for part in encoded]
        return piece if piece[:1] == self._start else [*self._start, *piece]

    def _vision_for(self, path: Path) -> VisionSpec:
        if self._vision is None:
            raise Unsupported(f"{path} is a picture, and the model has no vision file; name one with --mmproj")
        return self._vision


def _open(path: Path) -> Any:
    try:
        return load_image(path.read_bytes())
    except MediaError as error:
        raise MediaError(f"{path}: {error.message}") from error


def _molecules(text: str) -> Iterator[str]:
    """The first word of each line; names may follow it, and a first line may say what the columns are."""
    words = (line.split()[0] for line in text.splitlines() if line.strip())
    for index, word in enumerate(words):
        if index or word.lower() != "smiles":
            yield word


def _sequences(text: str) -> Iterator[str]:
    """The sequences between the lines that name them."""
    lines: list[str] = []
    for line in [*text.splitlines(), ">"]:
        if line.startswith((">", ";")):
            if lines:
                yield "".join(lines)
            lines = []
        elif line.strip():
            lines.append(line.strip())


def _conversation(line: str, place: str) -> tuple[list[Message], list[dict[str, Any]] | None]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadRequest(f"{place} is not JSON: {error}") from None
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise BadRequest(f'{place} has no conversation; {{"messages": [{{"role": ..., "content": ...}}]}} is expected')
    return [_message(message, place) for message in messages], value.get("tools") or None


def _message(fields: dict[str, Any], place: str) -> Message:
    reasoning = fields.get("reasoning_content") or fields.get("reasoning")
    return Message(
        role=str(fields.get("role", "user")),
        content=_content(fields.get("content"), place),
        reasoning=None if reasoning is None else str(reasoning),
        tool_calls=tuple(_tool_call(call, place) for call in fields.get("tool_calls") or ()),
        name=fields.get("name"),
        tool_call_id=fields.get("tool_call_id"),
    )


def _content(value: Any, place: str) -> tuple[Part, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (Text(value),)
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise BadRequest(
            f"{place}: a message's content must be text; pictures are given as files of their own (--data)"
        )
    return tuple(Text(part["text"]) for part in parts)


def _tool_call(value: Any, place: str) -> ToolCall:
    function = value.get("function", value) if isinstance(value, dict) else {}
    arguments = function.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        arguments = None
    if not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
        raise BadRequest(f"{place}: a tool call needs a function with a name and an object of arguments")
    return ToolCall(function["name"], arguments, value.get("id"))
