"""Text split at its added tokens: leftmost first, longest at one place, with their rules about neighbouring spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable

from interns1_local.tokenizer.vocabulary import AddedToken


class AddedTokenSplitter:
    """Cuts text into added tokens and what is between them. `marks` are cut out as well, but are no tokens."""

    def __init__(self, added_tokens: Iterable[AddedToken], marks: Iterable[str] = ()) -> None:
        self.tokens = {token.content: token for token in added_tokens if token.content}
        self._any_rules = any(token.lstrip or token.rstrip or token.single_word for token in self.tokens.values())
        # Longest first: a regular expression takes the first alternative that fits.
        contents = sorted({*self.tokens, *marks}, key=lambda content: (-len(content), content))
        self._pattern = re.compile(f"({'|'.join(map(re.escape, contents))})") if contents else None

    def split(self, text: str) -> list[str]:
        """The parts of the text in order. A part may be empty; a token that is part of a word stays in that word."""
        if self._pattern is None:
            return [text]
        parts = self._pattern.split(text)
        if self._any_rules:
            # The rules look at neighbours, and nothing counts as a neighbour only if it is not there at all.
            parts = [part for part in parts if part]
            for place, part in enumerate(parts):
                token = self.tokens.get(part)
                if token is not None:
                    _apply_rules(parts, place, token)
        return parts


def _apply_rules(parts: list[str], place: int, token: AddedToken) -> None:
    left = parts[place - 1] if place > 0 else ""
    right = parts[place + 1] if place + 1 < len(parts) else ""
    if token.rstrip and right:
        parts[place + 1] = right.lstrip()
    if token.lstrip and left:
        parts[place - 1] = left.rstrip()
    if not token.single_word:
        return
    # As in Hugging Face, the neighbours are judged as they were before the two rules above.
    if left and left[-1] != " ":
        parts[place - 1] += token.content
        parts[place] = ""
    elif right and right[0] != " ":
        parts[place + 1] = token.content + parts[place + 1]
        parts[place] = ""
