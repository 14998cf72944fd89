"""The pages hold together: links, both languages of the README, the settings, the sizes, the languages of blocks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.model_sizes import machines, tables
from interns1_local.commands import COMMANDS
from tests.docs.pages import DOCS, ROOT, Page, pages, read_page

CHINESE = ROOT / "README.zh-CN.md"
PAGES = [*pages(), read_page(CHINESE)]
_HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        if anchor:
            assert anchor in read_page(target).anchors, f"{page.name} links to {link}: there is no such heading"


def test_every_page_is_in_the_index() -> None:
    listed = set(read_page(DOCS / "README.md").links)
    assert {path.name for path in DOCS.glob("*.md")} - {"README.md"} <= listed


def test_the_readme_is_the_same_in_both_languages() -> None:
    """Levels and number of headings, blocks with their commands, rows of tables and links; the words are Chinese."""
    english, chinese = read_page(ROOT / "README.md"), read_page(CHINESE)
    assert [level for level, _ in chinese.headings] == [level for level, _ in english.headings]
    assert [_commands(b.text) for b in chinese.blocks] == [_commands(b.text) for b in english.blocks]
    assert [(b.language, b.words) for b in chinese.blocks] == [(b.language, b.words) for b in english.blocks]
    swapped = {"README.zh-CN.md": "README.md"}
    assert sorted(chinese.links) == sorted(swapped.get(link, link) for link in english.links)
    rows = [[line for line in text.splitlines() if line.startswith("|")] for text in _texts(english, chinese)]
    assert [row.count("|") for row in rows[0]] == [row.count("|") for row in rows[1]]
    assert all(_HAN.search(text) for level, text in chinese.headings[1:])


def test_every_setting_is_on_the_page_of_settings() -> None:
    """Those that the code reads, and no others."""
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`INTERNS1_([A-Z_]+)`", text))
    source = (ROOT / "interns1_local/config.py").read_text(encoding="utf-8")
    read = set(re.findall(r'read\("([A-Z_]+)"\)', source))
    elsewhere = {"SMILES_DETECTION", "BACKENDS", "UPSTREAM_KEY", "REGISTRY_USER", "REGISTRY_PASSWORD"}
    assert listed == read | elsewhere
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `INTERNS1_")]
    names = re.findall(r"`INTERNS1_([A-Z_]+)`", " ".join(rows))
    assert sorted(names) == sorted(set(names))


def test_sizes_come_from_the_converter() -> None:
    text = (DOCS / "models.md").read_text(encoding="utf-8")
    assert tables().strip() in text, "write what `python -m benchmarks.model_sizes` prints into docs/models.md"
    assert machines().strip() in text, "write what `python -m benchmarks.model_sizes` prints into docs/models.md"


def test_every_command_is_explained_somewhere() -> None:
    text = "".join(page.path.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in COMMANDS if f"interns1 {name}" not in text and f"`{name}`" not in text] == []
    compatibility = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"`{name}`" not in compatibility] == []


def test_python_blocks_are_python() -> None:
    for page in PAGES:
        for block in page.blocks:
            if block.language == "python":
                ast.parse(block.text, filename=f"{page.name}:{block.line}")


def _commands(text: str) -> list[str]:
    """A block without its comments, which are translated."""
    lines = (re.sub(r"(^|\s+)# .*$", "", line).rstrip() for line in text.splitlines())
    return [line for line in lines if line]


def _texts(*some: Page) -> list[str]:
    return [page.path.read_text(encoding="utf-8") for page in some]


def test_pages_are_short() -> None:
    """A page that is longer than this is two pages. Pages of facts are for looking things up, not for reading."""
    reference = {"fidelity.md", "compatibility.md", "architecture.md", "mistakes.md", "models.md"}
    long = {p.name: len(_texts(p)[0].splitlines()) for p in PAGES if Path(p.name).name not in reference}
    assert {name: count for name, count in long.items() if count > 260} == {}
