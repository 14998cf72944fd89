"""A film to the frames that a model sees, one tile each, chosen as the Hugging Face processor chooses them.

Decoding happens in a process of its own (`video_decoder`): a hostile file ends that process and nothing else, and a
film holds no memory here but the frames that were chosen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from interns1_local import child_python
from interns1_local.errors import MediaError
from interns1_local.media.image import load_image, stretch

# What the checkpoints leave open: their processors take every frame they are given.
DEFAULT_FRAMES = 16
MAX_FRAMES = 256
SECONDS = 120.0
MAX_PREFIX = 100

Frames = NDArray[np.uint8]
# Called with how many frames are there and how many there will be.
OnFrame = Callable[[int, int], None]

_NUMBERS = re.compile(r"(\d+)")
_FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FILM_STARTS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    bytes.fromhex("3026b2758e66cf11"),  # ASF, WMV
)
_FILM_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
_TS_PACKET = 188


@dataclass(frozen=True, slots=True)
class FrameChoice:
    """How many frames: a number, or so many a second; neither leaves it to DEFAULT_FRAMES."""

    num_frames: int | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.num_frames is not None and self.fps is not None:
            raise MediaError("num_frames and fps exclude each other; give one of them")
        if self.num_frames is not None and not 1 <= self.num_frames <= MAX_FRAMES:
            raise MediaError(f"num_frames must be between 1 and {MAX_FRAMES}; it is {self.num_frames}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise MediaError(f"fps must be greater than 0; it is {self.fps}")

    def indices(self, total: int, rate: float | None) -> list[int]:
        """Which of `total` frames, at `rate` frames a second. A film with fewer than were asked for is taken whole."""
        count = DEFAULT_FRAMES if self.num_frames is None else self.num_frames
        if self.fps is not None:
            if not rate:
                raise MediaError("the video does not say how many frames it has a second; give num_frames, not fps")
            count = max(1, int(total / rate * self.fps))
            if count > MAX_FRAMES:
                raise MediaError(
                    f"fps {self.fps:g} would take {count} frames of this video; the limit is {MAX_FRAMES}: "
                    "lower it, or give num_frames"
                )
        return sample_indices(total, min(count, total))


def sample_indices(total: int, count: int) -> list[int]:
    """`count` frames out of `total`, each from the middle of its share.

    As the reference has it: `arange(shift, total, total / count).int()` in torch's float32, with shift = total/count/2.
    Torch fills 16 places at a time, from two starts that are rounded first; in long films that decides over a frame.
    """
    shift, step = total / count / 2, total / count
    places = np.arange(count)
    one_by_one = (shift + step * places).astype(np.float32)
    starts = (shift + step * (places // 8 * 8)).astype(np.float32).astype(np.float64)
    in_blocks = (starts + step * (places % 8)).astype(np.float32)
    chosen = np.where(places < count // 16 * 16, in_blocks, one_by_one).astype(np.int64)
    return [int(index) for index in np.minimum(chosen, total - 1)]


def frame_texts(prefix: str, count: int) -> list[str]:
    """What stands before each frame: `prefix` with {i} as its number from one, each but the first on a new line."""
    if len(prefix) > MAX_PREFIX:
        raise MediaError(f"frame_prefix has {len(prefix)} characters; the limit is {MAX_PREFIX}")
    return [("\n" if number > 1 else "") + prefix.replace("{i}", str(number)) for number in range(1, count + 1)]


def is_video(data: bytes) -> bool:
    """Whether these bytes begin as a film does. A GIF is a picture here."""
    if data[4:8] in _FILM_BOXES:
        return data[4:8] != b"ftyp" or data[8:12] not in _PICTURE_BRANDS
    if data[:4] == b"RIFF":
        return data[8:12] == b"AVI "
    # A transport stream has no name, only a beat.
    beats = data[: 4 * _TS_PACKET + 1 : _TS_PACKET]
    return data.startswith(_FILM_STARTS) or (len(beats) > 2 and set(beats) == {0x47})


def frames_in(folder: Path) -> list[Path]:
    """The pictures in a folder as frames of a film, in the order that a person would give them (2 before 10)."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in _FRAME_SUFFIXES and path.is_file()]
    if not found:
        raise MediaError(f"the folder {folder} holds no frames ({', '.join(_FRAME_SUFFIXES)})")
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _NUMBERS.split(path.name)])


def stretch_frames(
    pictures: Sequence[bytes], choice: FrameChoice, size: int, on_frame: OnFrame | None = None
) -> Frames:
    """uint8 [frames, size, size, 3] of a film that comes as pictures: all of them, unless `choice` asks for fewer."""
    if choice.fps is not None:
        raise MediaError("frames that come as pictures have no rate; give num_frames, not fps")
    count = len(pictures) if choice.num_frames is None else choice.num_frames
    if not 1 <= min(count, len(pictures)) <= MAX_FRAMES:
        raise MediaError(f"the video has {len(pictures)} frames; between 1 and {MAX_FRAMES} can be used")
    indices = FrameChoice(count).indices(len(pictures), None)
    frames = np.empty((len(indices), size, size, 3), np.uint8)
    for place, index in enumerate(indices):
        frames[place] = stretch(load_image(pictures[index]), size, size)
        if on_frame is not None:
            on_frame(place + 1, len(indices))
    return frames


class Film:
    """A film being decoded. `frames` blocks until it is done; `stop`, from any thread, ends it before."""

    def __init__(self, source: bytes | Path, choice: FrameChoice, size: int, seconds: float = SECONDS) -> None:
        self._source = source
        self._choice = choice
        self._size = size
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._too_slow = False
        self._lock = threading.Lock()

    def frames(self, on_frame: OnFrame | None = None) -> Frames:
        """uint8 [frames, size, size, 3]: each frame stretched over one tile. Raises MediaError."""
        with _as_file(self._source) as path:
            timer = threading.Timer(self._seconds, self._give_up)
            # Leaving the process closes its pipe and waits for it; it is stopped before.
            with self._start(path) as process:
                timer.start()
                try:
                    assert process.stdout is not None
                    return self._read(process.stdout, on_frame)
                finally:
                    timer.cancel()
                    self.stop()

    def digest(self) -> bytes:
        """The same for the same frames of the same file."""
        content = self._source if isinstance(self._source, bytes) else self._source.read_bytes()
        wish = repr((self._choice, self._size)).encode()
        return hashlib.sha256(hashlib.sha256(content).digest() + wish).digest()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _start(self, path: Path) -> subprocess.Popen[bytes]:
        request = {
            "path": str(path),
            "num_frames": self._choice.num_frames,
            "fps": self._choice.fps,
            "size": self._size,
            "seconds": self._seconds,
        }
        command = child_python.command("interns1_local.media.video_decoder", json.dumps(request))
        with self._lock:
            if self._stopped:
                raise MediaError("the video was not decoded: the request is gone")
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_python.environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
                # Ctrl-C in a terminal is for the one who waits for the frames.
                start_new_session=True,
            )
            return self._process

    def _give_up(self) -> None:
        self._too_slow = True
        self.stop()

    def _read(self, pipe: IO[bytes], on_frame: OnFrame | None) -> Frames:
        count = int(self._line(pipe)["frames"])
        frames = np.empty((count, self._size, self._size, 3), np.uint8)
        for place in range(count):
            self._line(pipe)
            view = memoryview(frames[place]).cast("B")
            if pipe.readinto(view) != len(view):  # type: ignore[attr-defined]
                raise self._died()
            if on_frame is not None:
                on_frame(place + 1, count)
        return frames

    def _line(self, pipe: IO[bytes]) -> dict[str, Any]:
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise self._died()
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise MediaError(message["error"])
        return message

    def _died(self) -> MediaError:
        if self._too_slow:
            return MediaError(
                f"the video took longer than {self._seconds:.0f} seconds to decode; send a shorter one, "
                "or one with more keyframes"
            )
        return MediaError("the video could not be decoded: it is damaged, or needs too much memory")


@contextmanager
def _as_file(source: bytes | Path) -> Iterator[Path]:
    """A film as a file: decoders jump in it."""
    if isinstance(source, Path):
        yield source
        return
    if not source:
        raise MediaError("the video is empty")
    descriptor, name = tempfile.mkstemp(prefix="interns1-", suffix=".film")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(source)
        yield Path(name)
    finally:
        os.unlink(name)
