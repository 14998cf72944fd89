"""What Tab completes in the terminal chat: commands and their words, names of models, paths of pictures and films."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from interns1_local.commands.attachments import FILMS, PICTURES, escaped, unescaped
from interns1_local.commands.chat_commands import COMMANDS, SETTINGS, SHOWN
from interns1_local.config import GRAPHICS
from interns1_local.errors import InternS1Error

# A path being typed: after a quote up to the cursor, else one word, in which a backslash escapes.
_QUOTED = re.compile(r"(?:^|\s)(['\"])((?:~|\.{1,2})?/[^'\"]*)$")
_PLAIN = re.compile(r"(?:^|\s)((?:~|\.{1,2})?/(?:[^\s\\'\"]|\\.)*)$")
_MEDIA = tuple(f".{ending}" for ending in (*PICTURES, *FILMS))


class ChatCompleter(Completer):
    """`models()` gives the names of the models that can be loaded."""

    def __init__(self, models: Callable[[], Iterable[str]]) -> None:
        self._models = models

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        words = before.split(" ")
        if before.startswith("/"):
            found = [word for word in self._choices(words[:-1]) if word.startswith(words[-1])]
            if found:
                yield from (Completion(word, start_position=-len(words[-1])) for word in found)
                return
        endings = (".json",) if words[:2] == ["/set", "format"] else _MEDIA
        yield from _paths(before, endings)

    def _choices(self, words: list[str]) -> Iterable[str]:
        """What may follow these words of a command."""
        from interns1_local.store.options import OPTION_TYPES, THINK_LEVELS

        if words in (["/load"], ["/save"]):
            return self._names()
        if words == ["/set", "parameter"]:
            return sorted(OPTION_TYPES)
        fixed: dict[tuple[str, ...], Iterable[str]] = {
            (): COMMANDS,
            ("/set",): SETTINGS,
            ("/show",): SHOWN,
            ("/set", "think"): THINK_LEVELS,
            ("/set", "format"): ("json",),
            ("/set", "graphics"): GRAPHICS,
        }
        return fixed.get(tuple(words), ())

    def _names(self) -> list[str]:
        try:
            return sorted(self._models())
        except (InternS1Error, OSError):
            return []


def _paths(before: str, endings: tuple[str, ...]) -> Iterable[Completion]:
    quoted, plain = _QUOTED.search(before), _PLAIN.search(before)
    if quoted:
        typed, mark = quoted.group(2), quoted.group(1)
    elif plain:
        typed, mark = unescaped(plain.group(1)), ""
    else:
        return
    folder, slash, beginning = typed.rpartition("/")
    written = len(beginning if quoted else escaped(beginning))
    try:
        entries = sorted(Path(folder + slash).expanduser().iterdir(), key=lambda entry: entry.name)
    except (OSError, RuntimeError):
        return
    for entry in entries:
        name = entry.name
        if not name.startswith(beginning) or (name.startswith(".") and not beginning):
            continue
        if entry.is_dir():
            yield Completion((name if quoted else escaped(name)) + "/", start_position=-written, display=f"{name}/")
        elif name.lower().endswith(endings):
            yield Completion(name + mark if quoted else escaped(name), start_position=-written, display=name)
