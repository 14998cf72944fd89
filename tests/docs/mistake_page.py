"""docs/mistakes.md from the table of mistakes and what was said to each.

`python -m tests.docs.mistake_page` writes it; test_mistakes compares it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.docs.mistakes import SECTIONS, Mistake

_HEAD = """# Mistakes, and what we say

A message says what was given, what was expected and what to do next. These are the most likely ones, made on a real
server by a test, which holds this page to what was said. `interns1 COMMAND --help` shows an example of every command.
`INTERNS1_DEBUG=1` shows where an error came from; the server's log has a line for each request.
"""
_SHOWN = 90


def render(say: Callable[[Mistake], str]) -> str:
    """The page; `say` gives what we say to a mistake."""
    lines = [_HEAD]
    for title, mistakes in SECTIONS.items():
        lines += [f"## {title}", "", "| mistake | for example | we say | do |", "|---|---|---|---|"]
        for mistake in mistakes:
            made = mistake.made if len(mistake.made) <= _SHOWN else mistake.made[:_SHOWN].rstrip() + " ..."
            cells = (mistake.what, f"`{made}`", _cell(say(mistake)), mistake.do)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text in a cell of a table, its lines joined."""
    shown = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return shown.replace("`", "'")


def main() -> None:
    import tempfile
    from pathlib import Path

    from tests.docs.conftest import make_kit
    from tests.docs.mistake_desk import mistake_desk
    from tests.docs.pages import DOCS

    with tempfile.TemporaryDirectory() as name, make_kit(Path(name)) as kit, mistake_desk(kit, Path(name)) as desk:
        page = render(desk.make)
    (DOCS / "mistakes.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
