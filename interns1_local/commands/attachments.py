"""Pictures and films that come with a prompt: paths typed or dropped into the text, `--image PATH`, `--video PATH`.

A film is decoded here, not by the server: only the frames that the model will see are sent.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interns1_local.errors import MediaError

if TYPE_CHECKING:
    from interns1_local.media.video import FrameChoice, Frames
    from interns1_local.runners.model_spec import VisionFacts

MAX_BYTES = 100 * 1024 * 1024

FILMS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg")
PICTURES = ("jpg", "jpeg", "png", "webp")
_PATH = re.compile(rf"(?:file://|[a-zA-Z]:|~|\.{{1,2}})?[/\\][\S\\ ]+?\.(?i:{'|'.join(PICTURES + FILMS)})\b")
# What a terminal puts a backslash before when a file is dropped on it.
_ESCAPED = re.compile(r"\\([ ()\[\]{}$&;'\"|*?~`\\])")
_TO_ESCAPE = re.compile(r"[ ()\[\]{}$&;'\"|*?~`\\]")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")

# A film's name, and what its frames are counted on.
ShowFrames = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Attachments:
    """What goes into a message beside its text, in base64, and a line about each: what it will cost."""

    images: list[str]
    videos: list[list[str]]
    notes: list[str]


def take_paths(prompt: str) -> tuple[str, list[Path]]:
    """The prompt without the paths of pictures and films that exist, and these paths. Other paths stay text."""
    paths: list[Path] = []
    position = 0
    while found := _PATH.search(prompt, position):
        path = _as_path(found.group(0))
        if path is None:
            # `/tmp and ./cat.png` is one match of the pattern: a path may begin later in it.
            position = found.start() + 1
            continue
        paths.append(path)
        before, after = prompt[: found.start()], prompt[found.end() :]
        if before[-1:] in ("'", '"') and after[:1] == before[-1:]:
            before, after = before[:-1], after[1:]
        position = len(before)
        prompt = before + after
    return (re.sub(r"[ \t]{2,}", " ", prompt).strip() if paths else prompt), paths


def _as_path(typed: str) -> Path | None:
    """The file that is meant: as it is typed, as a terminal escapes it, or as a URL that a desktop drops."""
    from urllib.parse import unquote

    address = typed.startswith("file://")
    for reading in [unquote(typed.removeprefix("file://"))] if address else [typed, unescaped(typed)]:
        try:
            path = Path(reading).expanduser()
            if path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):
            # A whole message may look like one path: too long for a name, or with an unknown ~user.
            continue
    return None


def unescaped(typed: str) -> str:
    """Without the backslashes that a terminal puts into the name of a dropped file."""
    return _ESCAPED.sub(r"\1", typed.replace("'\\''", "'"))


def escaped(name: str) -> str:
    """A name with a backslash before what would end it in a message."""
    return _TO_ESCAPE.sub(r"\\\g<0>", name)


def attach(
    paths: Sequence[Path],
    facts: Mapping[str, Any],
    options: Mapping[str, Any],
    show: ShowFrames,
    pictures_before: int = 0,
) -> Attachments:
    """The files at `paths`. `facts` is what /api/show says of the model; `show(name)` is a context that counts frames.

    `pictures_before` are those that the conversation holds already: they share in `max_total_patches`.
    """
    vision = _vision(facts)
    films = [path for path in paths if is_film(path)]
    pictures = [path for path in paths if path not in films]
    images, notes = [], []
    for path in pictures:
        data = read_picture(path)
        images.append(base64.b64encode(data).decode("ascii"))
        notes += _picture_note(path, data, vision, options, pictures_before + len(pictures))
    videos = []
    for path in films:
        if vision is None:
            raise MediaError(f"cannot send the video {path}: the server does not say how this model takes pictures")
        frames = _film_frames(path, vision, options, show)
        videos.append([_as_png(frame) for frame in frames])
        notes.append(f"{path.name}: {len(frames)} frames, {len(frames) * vision.tokens_per_tile} tokens")
    return Attachments(images, videos, notes)


def is_film(path: Path) -> bool:
    """By its name, or by its content; a folder holds frames."""
    if path.is_dir() or path.suffix.lower().lstrip(".") in FILMS:
        return True
    if not path.is_file():
        return False
    from interns1_local.media.video import is_video

    with path.open("rb") as file:
        return is_video(file.read(1024))


def read_picture(path: Path) -> bytes:
    """The file, if it is a picture that the server can read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read the picture {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise MediaError(f"the picture {path} is larger than 100 MB")
    if not (data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise MediaError(f"{path} is not a PNG, JPEG, WebP, GIF, BMP or TIFF picture, and no video by its name")
    return data


def _vision(facts: Mapping[str, Any]) -> VisionFacts | None:
    """How the model takes pictures; None when the server does not say."""
    info = facts.get("projector_info")
    if not isinstance(info, dict):
        return None
    from interns1_local.runners.model_spec import vision_facts

    return vision_facts(info)


def _picture_note(
    path: Path, data: bytes, vision: VisionFacts | None, options: Mapping[str, Any], pictures: int
) -> list[str]:
    if vision is None:
        return []
    from interns1_local.media.image import count_tokens, limited

    most, budget = options.get("max_patches"), options.get("max_total_patches")
    cost = count_tokens(data, limited(vision.tile_spec, most, budget, pictures), vision.tokens_per_tile)
    grid = f"{cost.columns}x{cost.rows} tiles" if cost.tiles > 1 else "1 tile"
    return [f"{path.name}: {grid}, {cost.tokens} tokens"]


def _film_frames(path: Path, vision: VisionFacts, options: Mapping[str, Any], show: ShowFrames) -> Frames:
    from interns1_local.media.video import Film, FrameChoice, frames_in, stretch_frames

    asked = options.get("num_frames"), options.get("fps")
    choice = FrameChoice(*asked) if asked != (None, None) else FrameChoice(vision.num_frames, vision.fps)
    if not path.exists():
        raise MediaError(f"cannot read the video {path}: no such file or directory")
    with show(path.name) as on_frame:
        if not path.is_dir():
            return Film(path, choice, vision.tile_size).frames(on_frame)
        files = _chosen(frames_in(path), choice)
        return stretch_frames([file.read_bytes() for file in files], FrameChoice(), vision.tile_size, on_frame)


def _chosen(files: Sequence[Path], choice: FrameChoice) -> list[Path]:
    return [files[index] for index in choice.indices(len(files), None)]


def _as_png(frame: Any) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
