"""Paths of pictures and films in a prompt, what is sent of them, and what they cost."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from interns1_local.commands.attachments import attach, read_picture, take_paths
from interns1_local.errors import MediaError
from interns1_local.media.image import load_image, stretch
from tests.commands.conftest import Invoke
from tests.commands.fake_server import FakeServer, chunks
from tests.media import films

FOLDER = "./pictures"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "home.png").write_bytes(b"x")
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b c.jpg", "d.webp", "e.txt", "f.mp4", "g.ts", "it's.png"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "text", "names"),
    [
        ("What is ./pictures/a.png", "What is", ["a.png"]),
        ("./pictures/a.png", "", ["a.png"]),
        ("compare ./pictures/a.png with ./pictures/d.webp now", "compare with now", ["a.png", "d.webp"]),
        ('see "./pictures/b c.jpg" please', "see please", ["b c.jpg"]),
        ("see ./pictures/b\\ c.jpg please", "see please", ["b c.jpg"]),
        ("see './pictures/it'\\''s.png' please", "see please", ["it's.png"]),
        ("see ./pictures/it\\'s.png please", "see please", ["it's.png"]),
        ("see ~/home.png", "see", ["home.png"]),
        ("see file://HERE/pictures/b%20c.jpg please", "see please", ["b c.jpg"]),
        ("/" + "x" * 300 + ".png", "/" + "x" * 300 + ".png", []),
        ("~nobody/x.png", "~nobody/x.png", []),
        ("see ./sub/../pictures/a.png", "see", ["a.png"]),
        ("in /tmp and ./pictures/a.png", "in /tmp and", ["a.png"]),
        ("no file ./pictures/none.png", "no file ./pictures/none.png", []),
        ("text ./pictures/e.txt", "text ./pictures/e.txt", []),
        ("https://host/pictures/a.png", "https://host/pictures/a.png", []),
        ("C/C=C\\C and 1/2", "C/C=C\\C and 1/2", []),
        ("what happens in ./pictures/f.mp4", "what happens in", ["f.mp4"]),
        ("code ./pictures/g.ts", "code ./pictures/g.ts", []),
    ],
)
def test_take_paths(prompt: str, text: str, names: list[str], here: None, tmp_path: Path) -> None:
    rest, paths = take_paths(prompt.replace("HERE", str(tmp_path)))
    assert (rest, [path.name for path in paths]) == (text, names)


def test_only_pictures_are_sent(tmp_path: Path) -> None:
    path = tmp_path / "fake.png"
    path.write_bytes(b"#!/bin/sh")
    with pytest.raises(MediaError, match="not a PNG, JPEG, WebP, GIF, BMP or TIFF picture"):
        read_picture(path)


FACTS = {
    "projector_info": {
        "clip.vision.image_size": 448,
        "clip.vision.patch_size": 14,
        "clip.vision.projector.scale_factor": 2,
        "interns1.vision.max_patches": 12,
    }
}
Seen = list[tuple[str, int, int]]


@pytest.fixture
def seen() -> Seen:
    return []


@pytest.fixture
def show(seen: Seen) -> Callable[[str], object]:
    @contextmanager
    def count(name: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: seen.append((name, done, total))

    return count


def saved(path: Path, width: int, height: int) -> Path:
    Image.new("RGB", (width, height), "red").save(path)
    return path


def test_costs_of_pictures(tmp_path: Path, show: Callable[[str], object]) -> None:
    pictures = [saved(tmp_path / "a.png", 400, 300), saved(tmp_path / "b.bmp", 448, 448)]
    attached = attach(pictures, FACTS, {}, show)
    assert attached.notes == ["a.png: 4x3 tiles, 3328 tokens", "b.bmp: 1 tile, 256 tokens"]
    assert [base64.b64decode(image) for image in attached.images] == [path.read_bytes() for path in pictures]
    assert attach(pictures, FACTS, {"max_total_patches": 12}, show).notes[0] == "a.png: 3x2 tiles, 1792 tokens"
    assert attach(pictures, FACTS, {"max_total_patches": 12}, show, 10).notes[0] == "a.png: 1 tile, 256 tokens"
    assert attach(pictures, {}, {}, show).notes == []


def test_a_film_is_sent_as_the_frames_that_count(tmp_path: Path, seen: Seen, show: Callable[[str], object]) -> None:
    path = tmp_path / "film.mp4"
    data = films.film(30)
    path.write_bytes(data)
    attached = attach([path], FACTS, {"num_frames": 3}, show)
    assert attached.images == [] and attached.notes == ["film.mp4: 3 frames, 768 tokens"]
    assert seen == [("film.mp4", 1, 3), ("film.mp4", 2, 3), ("film.mp4", 3, 3)]
    [frames] = attached.videos
    for sent, picture in zip(frames, films.reference_frames(data, 3), strict=True):
        pixels = np.asarray(load_image(base64.b64decode(sent)))
        assert np.array_equal(pixels, stretch(picture, 448, 448))
    info = {**FACTS["projector_info"], "interns1.video.num_frames": 5}
    assert attach([path], {"projector_info": info}, {}, show).notes == ["film.mp4: 5 frames, 1280 tokens"]


def test_a_folder_of_frames(tmp_path: Path, show: Callable[[str], object]) -> None:
    for number in range(1, 13):
        Image.fromarray(films.frame(number)).save(tmp_path / f"{number}.png")
    [frames] = attach([tmp_path], FACTS, {"num_frames": 2}, show).videos
    found = [np.asarray(load_image(base64.b64decode(frame))) for frame in frames]
    assert np.array_equal(found[0], stretch(Image.fromarray(films.frame(4)), 448, 448))
    assert np.array_equal(found[1], stretch(Image.fromarray(films.frame(10)), 448, 448))


def test_films_that_cannot_be_sent(tmp_path: Path, show: Callable[[str], object]) -> None:
    with pytest.raises(MediaError, match="no such file"):
        attach([tmp_path / "none.mp4"], FACTS, {}, show)
    path = tmp_path / "film.mkv"
    path.write_bytes(b"nothing")
    with pytest.raises(MediaError, match="cannot be opened"):
        attach([path], FACTS, {}, show)
    with pytest.raises(MediaError, match="does not say how this model takes pictures"):
        attach([path], {}, {}, show)


def test_run_prints_what_is_added(fake: FakeServer, invoke: Invoke, tmp_path: Path) -> None:
    fake.models["nano"] |= FACTS
    fake.answers = [chunks({"content": "ok"})]
    path = tmp_path / "film.mp4"
    path.write_bytes(films.film(30))
    picture = saved(tmp_path / "a.png", 400, 300)
    result = invoke("run", "nano", f"What is in {path}?", "--image", str(picture), "--option", "num_frames=2")
    assert result.stderr.splitlines() == [
        f"Added video '{path}'",
        "film.mp4 2 frames",
        "a.png: 4x3 tiles, 3328 tokens",
        "film.mp4: 2 frames, 512 tokens",
    ]
    [message] = fake.asked("/api/chat")[0]["messages"]
    assert message["content"] == "What is in ?"
    assert len(message["images"]) == 1 and [len(frames) for frames in message["videos"]] == [2]


def test_run_takes_a_film_and_a_folder_of_frames(fake: FakeServer, invoke: Invoke, tmp_path: Path) -> None:
    fake.models["nano"] |= FACTS
    fake.answers = [chunks({"content": "ok"})]
    (tmp_path / "frames").mkdir()
    Image.fromarray(films.frame(1)).save(tmp_path / "frames" / "1.png")
    (tmp_path / "unnamed").write_bytes(films.film(30))
    arguments = ["--video", str(tmp_path / "frames"), "--video", str(tmp_path / "unnamed"), "--option", "num_frames=3"]
    invoke("run", "nano", "What?", *arguments)
    [message] = fake.asked("/api/chat")[0]["messages"]
    assert "images" not in message and [len(frames) for frames in message["videos"]] == [1, 3]
