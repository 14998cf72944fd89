"""What we say to the most likely mistakes, and that docs/mistakes.md says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.docs.conftest import Kit
from tests.docs.mistake_desk import mistake_desk
from tests.docs.mistake_page import render
from tests.docs.mistakes import SECTIONS, Mistake
from tests.docs.pages import DOCS

MISTAKES = [mistake for mistakes in SECTIONS.values() for mistake in mistakes]


@pytest.fixture(scope="module")
def said(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[Mistake, str]]:
    with mistake_desk(kit, tmp_path_factory.mktemp("mistakes")) as desk:
        yield {mistake: desk.make(mistake) for mistake in MISTAKES}


def test_the_page_says_what_we_say(said: Mapping[Mistake, str]) -> None:
    page = (DOCS / "mistakes.md").read_text(encoding="utf-8")
    assert render(said.__getitem__) == page, "python -m tests.docs.mistake_page writes the page anew"


def test_messages_are_sentences_for_people(said: Mapping[Mistake, str]) -> None:
    """No traceback, no name of a class, no path of ours, not one word alone."""
    for mistake, text in said.items():
        assert len(text.split()) >= 5, (mistake.what, text)
        assert not re.search(r"Traceback|Error\(|0x[0-9a-f]|/site-packages/|unexpected \w+Error", text), (
            mistake.what,
            text,
        )


def test_enough_mistakes() -> None:
    assert len(MISTAKES) >= 40 and len({mistake.made + mistake.where for mistake in MISTAKES}) == len(MISTAKES)
    assert Path(DOCS / "mistakes.md").is_file()
