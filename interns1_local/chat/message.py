"""What a conversation is made of: messages, their parts, and calls of tools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """Words in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message: the bytes of the file, not yet decoded. `max_patches` bounds the tiles of its grid."""

    data: bytes = field(repr=False)
    max_patches: int | None = None

    @property
    def n_bytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Video:
    """A film in a message: the bytes of its file, or of the pictures that are its `frames`, not yet decoded."""

    data: bytes = field(default=b"", repr=False)
    frames: tuple[bytes, ...] = field(default=(), repr=False)
    num_frames: int | None = None
    fps: float | None = None

    @property
    def n_bytes(self) -> int:
        return len(self.data) + sum(map(len, self.frames))


Part = Text | Image | Video


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model asks for; `id` is the client's name for it."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; a tool's message says which call it answers."""

    role: str
    content: tuple[Part, ...] = ()
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The words of the message, without its pictures and films."""
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """The pictures and films, in order."""
        return tuple(part for part in self.content if not isinstance(part, Text))
