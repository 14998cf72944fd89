"""The page's files, its policy, and the routes that it asks: tiles and molecules."""

from __future__ import annotations

import base64
import io
import re
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from interns1_local.media import molecule_drawing
from interns1_local.media.image import load_image, tile_image
from interns1_local.media.wishes import TileSpec
from interns1_local.server.page import WEB, web_files
from tests.media.films import film
from tests.media.pictures import encoded
from tests.server.test_chat import picture

ASPIRIN = "CC(=O)OC1=CC=CC=C1C(=O)O"


def test_browsers_get_the_page_and_others_what_they_expect(client: TestClient) -> None:
    page = client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "<main>" in page.text
    again = client.get("/", headers={"accept": "text/html", "if-none-match": page.headers["etag"]})
    assert again.status_code == 304 and not again.content
    for accept in ("*/*", "application/json", ""):
        other = client.get("/", headers={"accept": accept})
        assert other.text == "Ollama is running" and other.headers["vary"] == "Accept"
    assert client.head("/").status_code == 200


def test_the_policy(client: TestClient) -> None:
    headers = client.get("/", headers={"accept": "text/html"}).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["font-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_files_come_from_the_package_alone(client: TestClient) -> None:
    for name, file in web_files().items():
        answer = client.get(f"/web/{name}")
        assert answer.content == file.data and answer.headers["content-type"] == file.media_type
    for path in ("../page.py", "..%2fpage.py", "app/../../page.py", "vendor/LICENSES.md", "", "nothing.js"):
        assert client.get(f"/web/{path}").status_code == 404


def test_nothing_in_the_page_names_another_host_or_runs_inline() -> None:
    html = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for path in [WEB / "index.html", *WEB.glob("app/*.js"), *WEB.glob("style/*.css")]:
        text = path.read_text(encoding="utf-8")
        hosts = re.findall(r"https?://[\w.-]+", text)
        assert set(hosts) <= {"http://www.w3.org"}, f"{path.name} names {hosts}"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert len(text.splitlines()) <= 400, path.name


def test_vendored_files_are_named_with_their_licence() -> None:
    notes = (WEB / "vendor/LICENSES.md").read_text(encoding="utf-8")
    for path in (WEB / "vendor").iterdir():
        assert path.name in notes or path.name == "LICENSES.md", f"{path.name} is not in LICENSES.md"


def test_both_languages_have_the_same_words() -> None:
    tables = [
        dict(re.findall(r'^  (\w+): "(.*)",$', path.read_text(encoding="utf-8"), re.MULTILINE))
        for path in sorted(WEB.glob("app/words_*.js"))
    ]
    assert len(tables) == 2 and tables[0].keys() == tables[1].keys()
    blanks = [{key: sorted(re.findall(r"\{\w+\}", text)) for key, text in table.items()} for table in tables]
    assert blanks[0] == blanks[1]
    html = (WEB / "index.html").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in WEB.glob("app/*.js"))
    used = set(re.findall(r'data-t(?:-\w+)?="(\w+)"', html)) | set(re.findall(r"\bt\('(\w+)'", code))
    assert used <= tables[0].keys(), used - tables[0].keys()


def _cut(client: TestClient, data: bytes, **more: Any) -> Any:
    body = {"model": "tiny", "image": base64.b64encode(data).decode(), **more}
    answer = client.post("/api/tiles", json=body)
    return answer.json() if answer.status_code == 200 else answer.json()["error"]


def test_tiles_are_those_that_the_model_sees(client: TestClient) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 255, (60, 130, 3), np.uint8)))
    cost = _cut(client, data)
    shown = _cut(client, data, pictures=True)
    pictures = shown.pop("pictures")
    assert shown == cost
    assert (cost["kind"], cost["columns"], cost["rows"], cost["tiles"], cost["tile_size"]) == ("image", 2, 1, 3, 56)
    # 56 pixels in patches of 14, halved by the projector: 4 tokens a tile, and two around them.
    assert cost["tokens"] == 3 * 4 + 2
    expected = tile_image(load_image(data), TileSpec(56, 1, 4, True))
    for cut, tile in zip(pictures, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(cut)))), tile)


def test_tiles_follow_the_options(client: TestClient) -> None:
    assert _cut(client, picture((224, 56)), options={"max_patches": 1})["tiles"] == 1
    assert "max_patches" in _cut(client, picture(), options={"max_patches": 0})


def test_films_are_counted_with_the_words_between_their_frames(client: TestClient) -> None:
    found = _cut(client, film(5), options={"num_frames": 3}, pictures=True)
    assert (found["kind"], found["frames"], len(found["pictures"])) == ("video", 3, 3)
    # The fake counts letters, and ten for a tile: `Frame1: `, a new line before the second and the third.
    assert found["tokens"] == 3 * 10 + 3 * len("Frame1: ") + 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model": "tiny"}, "image is required"),
        ({"model": "tiny", "image": "!"}, "illegal base64"),
        ({"model": "tiny", "image": "AAAA"}, "not a PNG"),
        ({"model": "plain", "image": "AAAA"}, "does not take pictures"),
        ({"image": "AAAA"}, "model is required"),
        ({"model": "tiny", "image": 5}, "cannot unmarshal"),
    ],
)
def test_bad_requests_for_tiles(client: TestClient, body: dict[str, Any], said: str) -> None:
    answer = client.post("/api/tiles", json=body)
    assert answer.status_code == 400 and said in answer.json()["error"]


@pytest.mark.skipif(find_spec("rdkit") is None, reason="RDKit draws the molecules")
def test_molecules_are_drawn(client: TestClient) -> None:
    text = f"{ASPIRIN} <SMILES>C1CC</SMILES> <SMILES>CC[N+](C)(C)C</SMILES>"
    spans = client.post("/api/molecules", json={"text": text}).json()["spans"]
    assert spans[0]["formula"] == "C9H8O4" and spans[0]["weight"] == pytest.approx(180.16, abs=0.01)
    assert spans[0]["canonical"] == "CC(=O)Oc1ccccc1C(=O)O" and spans[0]["svg"].startswith("<svg")
    assert "error" in spans[1] and "svg" not in spans[1]
    assert spans[2]["formula"] == "C5H14N+"


def test_without_rdkit_the_text_stays(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecule_drawing, "find_spec", lambda name: None)
    answer = client.post("/api/molecules", json={"text": ASPIRIN}).json()
    assert answer["spans"] == [{"kind": "smiles", "start": 0, "end": 24, "value": ASPIRIN, "tagged": False}]
    assert 'pip install "interns1-local[science]"' in answer["hint"]


def test_long_texts_are_refused(client: TestClient) -> None:
    answer = client.post("/api/molecules", json={"text": "C" * 200_001})
    assert answer.status_code == 400 and "200001 characters" in answer.json()["error"]
