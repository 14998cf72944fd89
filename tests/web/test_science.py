"""Science on the page: molecules drawn, proteins coloured, tokens shown, pictures and films with their cost."""

from __future__ import annotations

import base64

import pytest

from interns1_local.media import molecule_drawing
from tests.media.films import film
from tests.server.fake_runner import FakeBackend
from tests.server.test_chat import picture
from tests.web.conftest import Open, ask, copied, none_left, rest, see, until

ASPIRIN = "CC(=O)OC1=CC=CC=C1C(=O)O"
# In Markdown two links.
CHIRAL = "C[C@H](N)C(=O)N[C@@H](C)C(=O)O"
PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ"


def test_molecules(open_page: Open, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    backend.enqueue("x</think>𝔸 It is ", f"{ASPIRIN}, not **{CHIRAL}**:\n\n- <SMILES>CCO</SMILES>\n- {ASPIRIN}")
    ask(page, "What is <SMILES>CCO</SMILES>?")
    page.locator(".assistant .molecule").nth(2).wait_for()
    assert page.locator(".user .molecule figcaption").inner_text().startswith("C2H6O")
    answer = page.locator(".assistant .text")
    assert answer.locator("code.smiles").all_inner_texts() == [ASPIRIN, CHIRAL, "CCO", ASPIRIN]
    assert answer.locator("strong code").inner_text() == CHIRAL and answer.locator("a").count() == 0
    # Each molecule once, after the paragraph that names it.
    assert answer.locator("p + .shelf .molecule").count() == 2
    for image in page.locator(".molecule img").all():
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 30
    card = answer.locator(".molecule").first
    card.get_by_role("button", name="SMILES").click()
    copied(page, ASPIRIN)
    card.get_by_role("button", name="SVG").click()
    until(page, "navigator.clipboard.readText().then((text) => text.startsWith('<svg'))")
    with page.expect_download() as download:
        card.get_by_role("button", name="Save").click()
    assert download.value.suggested_filename == "C9H8O4.svg"
    # A whole paragraph is drawn while the next one is written.
    backend.enqueue(f"x</think>First {ASPIRIN}.\n\n", "Then ", "<hang>")
    ask(page, "More")
    page.locator(".assistant.running .molecule").wait_for()
    page.get_by_role("button", name="Stop").click()
    rest(page)
    # Where nothing draws, the text stays and says how to get drawings.
    monkeypatch.setattr(molecule_drawing, "find_spec", lambda name: None)
    page.locator("#new-chat").click()
    backend.enqueue(f"x</think>It is {ASPIRIN}.")
    ask(page, "Again")
    see(page, 'pip install "interns1-local[science]"')
    none_left(page, ".molecule")


def test_proteins_and_tokens(open_page: Open, backend: FakeBackend) -> None:
    page = open_page()
    backend.enqueue(f"x</think>{PROTEIN} and <FASTA>>sp|P1\nMKV*</FASTA>")
    ask(page, "Which protein?")
    page.locator(".sequence").nth(1).wait_for()
    first = page.locator(".sequence").first
    assert first.locator(".place").all_inner_texts() == ["1", "11", "21", "31"]
    assert "".join(first.locator(".letters").all_inner_texts()) == PROTEIN
    assert first.locator(".letters .negative").first.inner_text() == "EE"
    assert "".join(page.locator(".sequence").nth(1).locator(".letters").all_inner_texts()) == "MKV*"
    page.locator(".user").get_by_role("button", name="How the model reads it").click()
    page.locator(".token-run").wait_for()
    assert page.locator(".token-run .token").all_inner_texts() == list("Which·protein?")
    assert "14 tokens for 14 characters" in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    none_left(page, "dialog")


DROP = """([data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  return transfer;
}"""


def test_pictures_and_films(open_page: Open, backend: FakeBackend) -> None:
    page = open_page(permissions=["camera"])
    wide = base64.b64encode(picture((120, 56))).decode()
    transfer = page.evaluate_handle(DROP, [wide, "dropped.png", "image/png"])
    page.dispatch_event("main", "drop", {"dataTransfer": transfer})
    page.evaluate(
        f"(args) => document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: ({DROP})(args) }}))",
        [base64.b64encode(picture()).decode(), "pasted.png", "image/png"],
    )
    page.set_input_files("#files", {"name": "film.mp4", "mimeType": "video/mp4", "buffer": film(4)})
    page.get_by_role("button", name="Camera").click()
    until(page, "document.querySelector('.camera video')?.videoWidth > 0")
    page.get_by_role("button", name="Take the picture").click()
    costs = page.locator("#attachments .cost span")
    page.locator("#attachments li").nth(3).wait_for()
    until(page, "!document.querySelector('#attachments').textContent.includes('…')")
    # Two tiles and the whole picture, 4 tokens each, and the two around them; a film as the fake counts it.
    assert costs.nth(0).inner_text() == "14 tokens · 2 × 1 tiles + whole picture"
    assert costs.nth(1).inner_text() == "6 tokens · 1 × 1 tiles"
    assert costs.nth(2).inner_text() == "75 tokens · 4 frames"
    assert "tokens in pictures" in page.locator("#draft-cost").inner_text()
    page.get_by_role("button", name="Remove camera").click()
    page.get_by_role("button", name="Show what the model sees").first.click()
    page.locator(".tile-grid img").nth(2).wait_for()
    page.keyboard.press("Escape")
    page.set_input_files("#files", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"})
    see(page, "notes.txt is neither a picture nor a video.", "#notice")
    page.set_input_files("#files", {"name": "bad.png", "mimeType": "image/png", "buffer": b"x"})
    see(page, "not a PNG", "#attachments")
    page.get_by_role("button", name="Remove bad.png").click()
    backend.enqueue("x</think>Red.")
    ask(page, "What is it?")
    see(page, "Red.")
    assert backend.last_text.count("tiles]") == 2 + 4
    page.get_by_role("button", name="Answer again").click()
    rest(page)
    assert page.locator(".user .media img").count() == 2 and page.locator(".user .media video").count() == 1
    page.select_option("#model", "plain:latest")
    page.set_input_files("#files", {"name": "p.png", "mimeType": "image/png", "buffer": picture()})
    see(page, "does not take pictures", "#attachments")
    ask(page, "And this?")
    see(page, "does not take pictures. Choose a model", "#notice")
