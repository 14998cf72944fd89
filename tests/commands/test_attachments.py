"""Paths of pictures in a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from interns1_local.commands.attachments import encode_image, take_images
from interns1_local.errors import MediaError

FOLDER = "./pictures"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b c.jpg", "d.webp", "e.txt"):
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
        ("see ./sub/../pictures/a.png", "see", ["a.png"]),
        ("in /tmp and ./pictures/a.png", "in /tmp and", ["a.png"]),
        ("no file ./pictures/none.png", "no file ./pictures/none.png", []),
        ("text ./pictures/e.txt", "text ./pictures/e.txt", []),
        ("https://host/pictures/a.png", "https://host/pictures/a.png", []),
        ("C/C=C\\C and 1/2", "C/C=C\\C and 1/2", []),
    ],
)
def test_take_images(prompt: str, text: str, names: list[str], here: None) -> None:
    rest, paths = take_images(prompt)
    assert (rest, [path.name for path in paths]) == (text, names)


def test_only_pictures_are_sent(tmp_path: Path) -> None:
    path = tmp_path / "fake.png"
    path.write_bytes(b"#!/bin/sh")
    with pytest.raises(MediaError, match="not a PNG, JPEG or WebP picture"):
        encode_image(path)
