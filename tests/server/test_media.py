"""Pictures and films in requests that cannot be used, and how their parts reach the runner."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.media import films
from tests.server.fake_runner import FakeBackend


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(width: int = 8, height: int = 8) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return encoded(buffer.getvalue())


FILM = encoded(films.film(12))


def ollama_chat(client: TestClient, options: dict[str, Any] | None = None, **message: Any) -> Any:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "What?", **message}],
        "options": options or {},
        "stream": False,
    }
    return client.post("/api/chat", json=body)


def openai_chat(client: TestClient, part: dict[str, Any], **fields: Any) -> Any:
    content = [part, {"type": "text", "text": "What?"}]
    return client.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}
    )


def shapes(backend: FakeBackend) -> list[Any]:
    """The last request's prompt: its texts, and of its pictures the number of tiles."""
    [*_, request] = backend.requests
    return [part if isinstance(part, str) else len(part) for part in request.prompt]


def test_a_film_becomes_texts_and_tiles(client: TestClient, backend: FakeBackend) -> None:
    assert ollama_chat(client, {"num_frames": 3}, videos=[FILM]).status_code == 200
    parts = shapes(backend)
    assert [part for part in parts if isinstance(part, int)] == [1, 1, 1]
    places = [place for place, part in enumerate(parts) if isinstance(part, int)]
    assert parts[places[0] - 1].endswith("Frame1: ")
    assert parts[places[0] + 1] == "\nFrame2: " and parts[places[1] + 1] == "\nFrame3: "


def test_a_film_among_images(client: TestClient, backend: FakeBackend) -> None:
    assert ollama_chat(client, {"num_frames": 2}, images=[png(), FILM]).status_code == 200
    assert [part for part in shapes(backend) if isinstance(part, int)] == [1, 1, 1]


def test_generate_takes_films_too(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tiny", "prompt": "What?", "stream": False, "options": {"num_frames": 2}}
    assert client.post("/api/generate", json={**body, "videos": [FILM]}).status_code == 200
    assert [part for part in shapes(backend) if isinstance(part, int)] == [1, 1]
    assert client.post("/api/generate", json={**body, "images": [FILM], "raw": True}).status_code == 200
    assert shapes(backend)[0::2] == ["Frame1: ", "\nFrame2: ", "What?"]


@pytest.mark.parametrize(
    ("options", "message", "error"),
    [
        ({}, {"videos": "x"}, "json: cannot unmarshal string"),
        ({}, {"videos": [1]}, "videos must hold files in base64"),
        ({}, {"videos": [[]]}, "videos must hold files in base64"),
        ({}, {"videos": ["&"]}, "illegal base64 data"),
        ({}, {"videos": [encoded(b"no film")]}, "the video cannot be opened"),
        ({}, {"videos": [FILM[:400]]}, "the video cannot be opened"),
        ({}, {"videos": [[encoded(b"no picture")]]}, "the image is not a PNG"),
        ({"num_frames": 0}, {"videos": [FILM]}, "num_frames must be between"),
        ({"fps": 0}, {"videos": [FILM]}, "fps must be greater"),
        ({"fps": 1, "num_frames": 2}, {"videos": [FILM]}, "exclude each other"),
        ({"num_frames": "2"}, {"videos": [FILM]}, 'option "num_frames" must be of type integer'),
        ({"frame_prefix": 1}, {"videos": [FILM]}, 'option "frame_prefix" must be of type string'),
        ({"frame_prefix": "x" * 200}, {"videos": [FILM]}, "frame_prefix has 200 characters"),
        ({"max_patches": 0}, {"images": [png()]}, "max_patches must be between"),
        ({"max_total_patches": 0}, {"images": [png()]}, "max_total_patches must be at least 1"),
        ({"max_patches": 100}, {"images": [png(800, 801)] * 6}, "make more than 512 tiles"),
    ],
)
def test_ollama_errors(options: dict[str, Any], message: dict[str, Any], error: str, client: TestClient) -> None:
    answer = ollama_chat(client, options, **message)
    assert answer.status_code in (400, 500) and error in answer.json()["error"], answer.text
    assert answer.status_code == 400 or "must be of type" in error


@pytest.mark.parametrize(
    ("video", "error"),
    [
        (None, "invalid video input"),
        ({"url": 1}, "invalid video input"),
        ({"url": "file:///etc/passwd"}, "video URLs are not supported"),
        ({"url": "https://example.com/film.mp4"}, "video URLs are not supported"),
        ({"url": "data:image/png;base64,AAAA"}, "video URLs are not supported"),
        ({"url": "data:video/mp4;base64,&"}, "invalid video input"),
        ({"url": "data:video/mp4;base64,AAAA"}, "the video cannot be opened"),
        ({"url": f"data:video/mp4;base64,{FILM}", "num_frames": 300}, "num_frames must be between"),
        ({"url": f"data:video/jpeg;base64,{png()}", "fps": 1}, "give num_frames, not fps"),
    ],
)
def test_openai_errors(video: Any, error: str, client: TestClient) -> None:
    answer = openai_chat(client, {"type": "video_url", "video_url": video})
    assert answer.status_code == 400 and error in answer.json()["error"]["message"], answer.text


def test_openai_frames(client: TestClient, backend: FakeBackend) -> None:
    url = f"data:video/jpeg;base64,{png()},{png()},{png()}"
    assert openai_chat(client, {"type": "video_url", "video_url": {"url": url}}).status_code == 200
    assert [part for part in shapes(backend) if isinstance(part, int)] == [1, 1, 1]
    assert openai_chat(client, {"type": "video_url", "video_url": {"url": url, "num_frames": 2}}).status_code == 200
    assert [part for part in shapes(backend) if isinstance(part, int)] == [1, 1]


def test_responses_know_the_detail(client: TestClient, backend: FakeBackend) -> None:
    for detail, tiles in (("low", 1), ("high", 5)):
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{png(112, 112)}", "detail": detail}
        answer = client.post("/v1/responses", json={"model": "tiny", "input": [{"role": "user", "content": [image]}]})
        assert answer.status_code == 200, answer.text
        [found] = [part for part in shapes(backend) if isinstance(part, int)]
        assert found == tiles


def test_tiles_are_those_of_the_file(client: TestClient, backend: FakeBackend) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert ollama_chat(client, {"max_patches": 1}, images=[encoded(buffer.getvalue())]).status_code == 200
    [tiles] = [part for part in backend.requests[-1].prompt if not isinstance(part, str)]
    assert tiles.shape[0] == 1 and tiles.dtype == np.uint8
