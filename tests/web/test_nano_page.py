"""A conversation with the nano on the page: a picture described, a molecule drawn, a sum thought out, a tool called."""

from __future__ import annotations

from collections.abc import Callable

from interns1_local.nano.pictures import Thing, draw_things, png
from tests.nano.conftest import served, server  # noqa: F401
from tests.web.conftest import Open, ask, rest, see


def test_a_conversation(open_page: Open, server: str, served: Callable[[str], str]) -> None:  # noqa: F811
    page = open_page(server, model=served("Q8_0") + ":latest")
    picture = png(draw_things([Thing("red", "circle", "top left")]))
    page.set_input_files("#files", {"name": "circle.png", "mimeType": "image/png", "buffer": picture})
    ask(page, "Where is the red circle?")
    see(page, "top left", ".assistant .text")
    rest(page)
    ask(page, "What is the SMILES of aspirin?")
    page.locator(".assistant .molecule img").wait_for()
    assert page.locator(".assistant .molecule figcaption").inner_text().startswith("C9H8O4")
    rest(page)
    page.locator("#new-chat").click()
    ask(page, "What is 27 + 15?")
    see(page, "42", ".assistant .text")
    rest(page)
    assert "tokens" in page.locator(".thought summary").inner_text()
    page.get_by_role("button", name="How the model reads it").first.click()
    page.locator(".token-run .token").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("get_weather").check()
    page.locator("#new-chat").click()
    ask(page, "What is the weather in Paris?")
    see(page, "degrees in Paris", ".assistant .text")
    assert '"city":"Paris"' in page.locator(".call.result").inner_text()
