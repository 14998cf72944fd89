"""Reads our Markdown: headings, links, and the fenced blocks with what their first line says of them.

A block of commands is ```sh or ```console (`$ ` before each command, and below it what it prints). A word after the
language says how the test runs it: `serves` starts a server, `norun` cannot run here, and a `#` line in it says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^(`{3,}|~{3,})\s*(.*)$")
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*$")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# What belongs to the line before: an argument of several lines, or the rest of a here-document.
_HERE = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its first line of text, from 1."""

    line: int
    language: str
    words: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a console block, and what the page says that it prints."""

    command: str
    output: str


@dataclass(slots=True)
class Page:
    path: Path
    headings: list[tuple[int, str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    links: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def anchors(self) -> set[str]:
        """What GitHub makes of the headings."""
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in self.headings}


def read_page(path: Path) -> Page:
    """The page at `path`. A fence that is never closed is an error."""
    page = Page(path)
    open_at, fence, info, lines = 0, "", "", [""]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = _FENCE.match(line)
        if fence:
            if found and found.group(1).startswith(fence) and not found.group(2):
                language, *words = info.split() or [""]
                page.blocks.append(Block(open_at + 1, language, frozenset(words), "\n".join(lines) + "\n"))
                fence = ""
            else:
                lines.append(line)
        elif found:
            open_at, fence, info, lines = number, found.group(1), found.group(2), []
        else:
            if heading := _HEADING.match(line):
                page.headings.append((len(heading.group(1)), heading.group(2)))
            page.links += _LINK.findall(line)
    assert not fence, f"{page.name}:{open_at}: this block is never closed"
    return page


def pages() -> list[Page]:
    """README.md and every page of docs/, in the order of their names. The Chinese README has the same blocks."""
    return [read_page(path) for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]]


def shown_commands(text: str) -> list[Shown]:
    """The commands of a console block, each with its output."""
    found: list[tuple[list[str], list[str]]] = []
    end = ""
    for line in text.splitlines():
        if end:
            found[-1][0].append(line)
            end = "" if line.strip() == end else end
        elif line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found and found[-1][0][-1].endswith("\\") and not found[-1][1]:
            found[-1][0].append(line)
        else:
            found[-1][1].append(line)
            continue
        here = _HERE.search(line)
        end = here.group(1) if here and not end and line.startswith("$ ") else end
    return [Shown("\n".join(command), "\n".join(output)) for command, output in found]
