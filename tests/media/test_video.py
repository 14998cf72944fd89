"""Films: the frames of the Hugging Face library for every container, memory that stays flat, and files that lie."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interns1_local.errors import MediaError
from interns1_local.media.image import stretch
from interns1_local.media.video import (
    DEFAULT_FRAMES,
    MAX_FRAMES,
    Film,
    FrameChoice,
    frame_texts,
    frames_in,
    is_video,
    sample_indices,
    stretch_frames,
)
from tests.media import films

SIZE = 56
KINDS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mp4-b-frames": {"codec": "libx264"},
    "mp4-hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mkv": {"container": "matroska", "codec": "libx264"},
    "webm": {"container": "webm", "codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "mov": {"container": "mov", "codec": "mjpeg", "pixel_format": "yuvj420p"},
    "avi": {"container": "avi"},
    "avi-b-frames": {"container": "avi", "codec": "libx264"},
    "ts": {"container": "mpegts", "codec": "libx264"},
    "mpg": {"container": "mpeg", "codec": "mpeg1video", "rate": 25},
    "flv": {"container": "flv", "codec": "libx264"},
    "asf": {"container": "asf"},
    "h264": {"container": "h264", "codec": "libx264"},
    "one-keyframe": {"codec": "libx264", "gop": 1000},
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_hugging_face(kind: str) -> None:
    data = films.film(60, **KINDS[kind])
    for count in (1, 7, 60):
        expected = [stretch(image, SIZE, SIZE) for image in films.reference_frames(data, count)]
        assert np.array_equal(Film(data, FrameChoice(count), SIZE).frames(), np.stack(expected)), count


def test_indices_are_those_of_torch() -> None:
    for total in [*range(1, 120), 1000, 4500, 16_000]:
        for count in {1, 2, 3, 7, 16, 24, 33, 64, 100, MAX_FRAMES}:
            if count <= total:
                assert sample_indices(total, count) == films.reference_indices(total, count), (total, count)


def test_indices_in_long_films() -> None:
    """Where torch's own answer depends on the processor it runs on, by one frame at most."""
    generator = np.random.default_rng(0)
    same = 0
    for total in generator.integers(16_000, 400_000, 2000).tolist():
        count = int(generator.integers(1, MAX_FRAMES + 1))
        ours, theirs = sample_indices(total, count), films.reference_indices(total, count)
        assert np.abs(np.array(ours) - theirs).max() <= 1
        same += ours == theirs
    assert same >= 1990


@pytest.mark.parametrize(
    ("choice", "total", "rate", "count"),
    [
        (FrameChoice(), 100, 25.0, DEFAULT_FRAMES),
        (FrameChoice(), 5, 25.0, 5),
        (FrameChoice(30), 20, None, 20),
        (FrameChoice(fps=1), 100, 25.0, 4),
        (FrameChoice(fps=0.01), 100, 25.0, 1),
        (FrameChoice(fps=60), 100, 25.0, 100),
    ],
)
def test_how_many_frames(choice: FrameChoice, total: int, rate: float | None, count: int) -> None:
    indices = choice.indices(total, rate)
    assert len(indices) == count
    assert indices == sorted(set(indices)) and indices[-1] < total


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, "num_frames must be between"),
        ({"num_frames": MAX_FRAMES + 1}, "num_frames must be between"),
        ({"fps": 0.0}, "fps must be greater"),
        ({"fps": float("nan")}, "fps must be greater"),
        ({"num_frames": 2, "fps": 1.0}, "exclude each other"),
    ],
)
def test_choices_that_are_none(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        FrameChoice(**values)


def test_rates_that_cannot_be() -> None:
    with pytest.raises(MediaError, match="does not say how many frames"):
        FrameChoice(fps=1).indices(100, None)
    with pytest.raises(MediaError, match=f"would take 7200 frames of this video; the limit is {MAX_FRAMES}"):
        FrameChoice(fps=1).indices(7200 * 24, 24.0)


def test_prefixes() -> None:
    assert frame_texts("Frame{i}: ", 3) == ["Frame1: ", "\nFrame2: ", "\nFrame3: "]
    assert frame_texts("Frame-{i}: ", 2) == ["Frame-1: ", "\nFrame-2: "]
    with pytest.raises(MediaError, match="frame_prefix"):
        frame_texts("x" * 101, 1)


def test_frames_are_counted_as_they_come() -> None:
    seen: list[tuple[int, int]] = []
    Film(films.film(20), FrameChoice(4), SIZE).frames(lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_film_is_known_by_its_content() -> None:
    for kind, choices in KINDS.items():
        if kind != "h264":
            assert is_video(films.film(30, **choices)), kind
    picture = Image.new("RGB", (8, 8), "red")
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        picture.save(buffer, name)
        assert not is_video(buffer.getvalue()), name
    for data in (b"", b"G", b"hello", b"\x00" * 1000):
        assert not is_video(data)


def test_a_film_held_sideways_stands_upright() -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, :32] = 255
    buffer = io.BytesIO()
    films.write_film(buffer, [wide] * 4)
    data = bytearray(buffer.getvalue())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack(">3I", data[matrix : matrix + 12]) == (0x10000, 0, 0)
    # A quarter turn clockwise, as telephones write it.
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 0x10000, 0, -0x10000, 0)
    [upright] = Film(bytes(data), FrameChoice(1), SIZE).frames()
    assert upright[:20].mean() > 200 and upright[-20:].mean() < 50


def test_frames_as_pictures(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        Image.fromarray(films.frame(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    paths = frames_in(tmp_path)
    assert [path.stem for path in paths] == ["frame1", "frame2", "frame3", "frame10"]
    files = [path.read_bytes() for path in paths]
    whole = stretch_frames(files, FrameChoice(), SIZE)
    assert np.array_equal(whole[3], stretch(Image.fromarray(films.frame(10)), SIZE, SIZE))
    assert np.array_equal(stretch_frames(files, FrameChoice(2), SIZE), whole[[1, 3]])
    with pytest.raises(MediaError, match="give num_frames, not fps"):
        stretch_frames(files, FrameChoice(fps=1), SIZE)
    with pytest.raises(MediaError, match="has 300 frames"):
        stretch_frames(files[:1] * 300, FrameChoice(), SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no frames"):
        frames_in(tmp_path / "empty")


@pytest.fixture(scope="module")
def two_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7200 seconds at 2 frames a second."""
    path = tmp_path_factory.mktemp("films") / "long.mp4"
    pictures = [films.frame(number, 96, 64) for number in range(64)]
    films.write_film(path, (pictures[number % 64] for number in range(14_400)), rate=2, gop=50)
    return path


def test_a_film_of_two_hours_is_not_held_in_memory(two_hours: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from interns1_local.media.video import Film, FrameChoice\n"
        f"frames = Film(Path(sys.argv[1]), FrameChoice(16), {SIZE}).frames()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.stdout.flush(); sys.stdout.buffer.write(frames.tobytes())"
    )
    # In a process of its own, since the peak of a child begins with the size of its parent.
    done = subprocess.run([sys.executable, "-c", script, str(two_hours)], stdout=subprocess.PIPE, check=True)
    peak, _, pixels = done.stdout.partition(b"\n")
    frames = np.frombuffer(pixels, np.uint8).reshape(16, SIZE, SIZE, 3)
    expected = [stretch(image, SIZE, SIZE) for image in films.reference_frames(two_hours.read_bytes(), 16)]
    assert np.array_equal(frames, np.stack(expected))
    # All frames as pixels would be 265 MB.
    assert int(peak) * films.PEAK_UNIT < 130 * 2**20


def damaged() -> Iterator[tuple[str, bytes]]:
    whole = films.film(60)
    yield "empty", b""
    yield "text", b"hello, I am a film"
    yield "a picture", _png()
    yield "only a head", whole[:32]
    for part in (0.1, 0.5, 0.9):
        yield f"mp4 cut at {part}", whole[: int(len(whole) * part)]
    yield "a playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "a list of files", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "only sound", _sound()
    huge = bytearray(films.film(2, container="gif", codec="gif", pixel_format="rgb8"))
    huge[6:10] = struct.pack("<HH", 60_000, 60_000)
    yield "huge", bytes(huge)
    zero = bytearray(films.film(3, container="ivf", codec="libvpx"))
    yield "no frames", bytes(zero[:32])


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def _sound() -> bytes:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16_000
        output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), list(damaged()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_film(name: str, data: bytes) -> None:
    with pytest.raises(MediaError, match=r"video|image"):
        Film(data, FrameChoice(4), SIZE).frames()


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "ts"])
def test_damage_anywhere_is_an_error_or_a_film(kind: str) -> None:
    whole = films.film(30, **KINDS[kind])
    generator = np.random.default_rng(3)
    for share in generator.uniform(0, 1, 6):
        data = bytearray(whole)
        place = int(share * (len(data) - 16))
        data[place : place + 16] = generator.bytes(16)
        try:
            assert Film(bytes(data), FrameChoice(3), SIZE).frames().shape == (3, SIZE, SIZE, 3)
        except MediaError:
            continue


def test_a_time_limit(two_hours: Path) -> None:
    with pytest.raises(MediaError, match="took longer than"):
        Film(two_hours, FrameChoice(256), SIZE, seconds=0.05).frames()


def test_a_film_that_is_stopped(two_hours: Path) -> None:
    film = Film(two_hours, FrameChoice(256), SIZE)
    threading.Timer(0.2, film.stop).start()
    began = time.monotonic()
    with pytest.raises(MediaError):
        film.frames()
    assert time.monotonic() - began < 60
    with pytest.raises(MediaError, match="the request is gone"):
        film.frames()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="No such file"):
        Film(tmp_path / "none.mp4", FrameChoice(1), SIZE).frames()
