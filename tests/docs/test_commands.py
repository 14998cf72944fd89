"""Every command of the README and of docs/ works as written, on the nano."""

from __future__ import annotations

import pytest

from tests.docs.desk import Desk, matches
from tests.docs.pages import Page, pages, shown_commands

PAGES = pages()
RUN = ("sh", "console", "python")
# Blocks that no test runs: they need a hub, a GPU, another machine, a package manager or a service manager.
MOST_NOT_RUN = 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_work_as_written(page: Page, desk: Desk) -> None:
    for block in page.blocks:
        if block.language in RUN and "norun" not in block.words:
            desk.run(block)


def test_blocks_say_how_they_are_run() -> None:
    known = {*RUN, "text", "json", "modelfile", "ini", "dockerfile", "yaml", "diff"}
    for page in PAGES:
        for block in page.blocks:
            where = f"{page.name}:{block.line}"
            assert block.language in known, f"{where}: the language {block.language!r} is not one of {sorted(known)}"
            assert block.words <= {"norun", "serves"}, f"{where}: {sorted(block.words)}"
            if block.language == "text":
                assert "interns1 " not in block.text or "$ " not in block.text, where
            if "norun" in block.words:
                assert "# " in block.text, f"{where}: a block that is not run says why, in a line that begins with #"


def test_few_blocks_are_not_run() -> None:
    left = [f"{page.name}:{block.line}" for page in PAGES for block in page.blocks if "norun" in block.words]
    run = sum(block.language in RUN for page in PAGES for block in page.blocks) - len(left)
    assert len(left) <= MOST_NOT_RUN and run > len(left), left


def test_reading_console_blocks() -> None:
    text = "$ one \\\n  --more\nsays\nthis\n$ two <<END\n$ no command\nEND\n$ three\n"
    found = shown_commands(text)
    assert [each.command for each in found] == ["one \\\n  --more", "two <<END\n$ no command\nEND", "three"]
    assert [each.output for each in found] == ["says\nthis", "", ""]


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a\n\nb  \n", "a\nb", True),
        ("a\nx\ny\nb\n", "a\n...\nb", True),
        ("a\n", "b", False),
        ("a\nb\n", "a", False),
        ("anything", "", True),
    ],
)
def test_matching_outputs(printed: str, shown: str, same: bool) -> None:
    assert matches(printed, shown) is same
