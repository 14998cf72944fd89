"""What Tab offers."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.document import Document

from interns1_local.commands.attachments import take_paths
from interns1_local.commands.chat_completion import ChatCompleter
from interns1_local.commands.errors import ServerError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "my pics/",
        "my pics/a (1).png",
        "my pics/b.mp4",
        "my pics/c.txt",
        ".hidden.png",
        "s.json",
        "it's.PNG",
    ):
        path = tmp_path / name
        path.mkdir() if name.endswith("/") else path.write_bytes(b"x")
    (tmp_path / "home" / "at home.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)


def completed(typed: str) -> list[str]:
    """The whole line for each of the offers."""
    completer = ChatCompleter(lambda: ["nano:latest", "mine:latest"])
    offers = completer.get_completions(Document(typed), None)  # type: ignore[arg-type]
    return [typed[: len(typed) + offer.start_position] + offer.text for offer in offers]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("/cl", ["/clear"]),
        ("/set no", [f"/set {word}" for word in ("nohistory", "nowordwrap", "noformat", "nomarkdown", "nothink")]),
        ("/show te", ["/show template"]),
        ("/load ", ["/load mine:latest", "/load nano:latest"]),
        ("/save m", ["/save mine:latest"]),
        ("/set parameter top_", ["/set parameter top_k", "/set parameter top_p"]),
        ("/set think m", ["/set think medium", "/set think max"]),
        ("/set graphics s", ["/set graphics sixel"]),
        ("/set format j", ["/set format json"]),
        ("/set format ./s", ["/set format ./s.json"]),
        ("/clear x", []),
        ("hi", []),
        ("see ./", ["see ./home/", "see ./it\\'s.PNG", "see ./my\\ pics/"]),
        ("see ./my", ["see ./my\\ pics/"]),
        ("see ./my\\ p", ["see ./my\\ pics/"]),
        ("see ./my\\ pics/", ["see ./my\\ pics/a\\ \\(1\\).png", "see ./my\\ pics/b.mp4"]),
        ("see './my pics/a", ["see './my pics/a (1).png'"]),
        ("see ./.h", ["see ./.hidden.png"]),
        ("see ~/at", ["see ~/at\\ home.jpg"]),
        ("/tiles ./my\\ pics/b", ["/tiles ./my\\ pics/b.mp4"]),
        ("see ./nowhere/x", []),
        ("see ~nobody-at-all/x", []),
    ],
)
def test_offers(typed: str, expected: list[str], here: None) -> None:
    assert completed(typed) == expected


def test_what_is_offered_is_understood(here: None) -> None:
    for typed in ("see ./my\\ pics/a", "see './my pics/a", "see ./i"):
        [offer] = completed(typed)
        rest, [path] = take_paths(offer)
        assert rest == "see"
        assert path.is_file()


def test_no_models_are_offered_when_the_server_does_not_answer() -> None:
    def models() -> list[str]:
        raise ServerError("gone")

    offers = ChatCompleter(models).get_completions(Document("/load "), None)  # type: ignore[arg-type]
    assert list(offers) == []
