"""Word wrap for text that arrives in pieces."""

from __future__ import annotations


class WordWrap:
    """Moves a word that would cross the last column to the next line. A width of 0 leaves the text as it is."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.restart()

    def restart(self) -> None:
        """A new line has begun."""
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What can be written now; the word that is not complete yet waits."""
        if not self._width:
            return text
        from prompt_toolkit.utils import get_cwidth

        out = []
        for character in text:
            if character.isspace():
                out.append(self.flush() + character)
                self._column = 0 if character == "\n" else self._column + 1
            elif character.isascii() or get_cwidth(character) < 2:
                self._word += character
            else:
                # Chinese text may break anywhere.
                out.append(self.flush())
                self._word = character
                out.append(self.flush())
        return "".join(out)

    def flush(self) -> str:
        """The waiting word, on a line where it fits."""
        from prompt_toolkit.utils import get_cwidth

        word, self._word = self._word, ""
        columns = get_cwidth(word) if word else 0
        if self._column and self._column + columns > self._width:
            self._column = columns
            return "\n" + word
        self._column += columns
        return word
