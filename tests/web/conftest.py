"""The page in a real browser: headless Chromium over a server with scripted answers, or with the nano."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.conftest import backend, live_url, made_models, store  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
Open = Callable[..., Any]


# For one file of tests: while it runs, no other test of this process could start an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page is tested in a browser: install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; on Debian or Ubuntu: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # As root, in a container, Chromium's own sandbox cannot start.
        arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, live_url: str) -> Iterator[Open]:  # noqa: F811
    """`open_page(locale="zh-CN", ...)` -> the page, ready, in a fresh profile. An error in its console fails the test.

    `page.asked` lists the addresses that it asked for, all of them its server's; `page.problems` its errors.
    """
    contexts: list[Any] = []
    problems: list[str] = []
    asked: list[str] = []
    own = ["data:", "blob:"]

    def get(url: str = live_url, model: str = "tiny:latest", ready: bool = True, **options: Any) -> Any:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 760}, **options})
        context.set_default_timeout(30000)
        contexts.append(context)
        own.append(url)
        page = context.new_page()
        page.asked, page.problems = asked, problems
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if _is_problem(said) else None)
        page.goto(url)
        if ready:
            page.wait_for_selector("html[data-ready]")
            page.select_option("#model", model)
        return page

    yield get
    for context in contexts:
        context.close()
    assert not problems, problems
    elsewhere = [url for url in asked if not url.startswith(tuple(own))]
    assert not elsewhere, elsewhere


def ask(page: Any, text: str) -> None:
    """Write a message and send it."""
    page.fill("#draft", text)
    page.press("#draft", "Enter")


def see(page: Any, text: str, where: str = ".text") -> None:
    """Wait until a text is there."""
    page.locator(where).get_by_text(text).last.wait_for()


def rest(page: Any) -> None:
    """Wait until the last answer is whole and drawn."""
    page.wait_for_selector("body:not(.running)")
    page.wait_for_load_state("networkidle")


def none_left(page: Any, selector: str) -> None:
    """Wait until nothing fits a selector: what closes or is removed may take its time."""
    until(page, f"document.querySelectorAll({json.dumps(selector)}).length === 0")


def copied(page: Any, text: str) -> None:
    """Wait until this is what the clipboard holds."""
    until(page, f"navigator.clipboard.readText().then((text) => text === {json.dumps(text)})")


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true. Playwright's own way needs `eval`, which the page forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"not in 30 seconds: {expression}"
        page.wait_for_timeout(30)


def _is_problem(said: Any) -> bool:
    """Errors, but for answers of the server that a test provokes."""
    return said.type == "error" and "Failed to load resource" not in said.text
