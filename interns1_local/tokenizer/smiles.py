"""Where text holds a molecule in SMILES notation: candidate spans, and the rules that accept a candidate.

A candidate is a run of at least ten SMILES units (a `[...]` atom, an element, a bond, digit or bracket) that neither
starts nor ends with `:`, `.` or `=`. Every search here is linear in the text, whatever the text is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator

MIN_UNITS = 10

# Elements of two letters: the second letters that may follow each first one.
_SECOND_LETTERS = {
    "A": "cglmrstu",
    "B": "aehikr",
    "C": "adeflmnorsu",
    "D": "bsy",
    "E": "rsu",
    "F": "elmr",
    "G": "ade",
    "H": "efgos",
    "I": "nr",
    "K": "r",
    "L": "airuv",
    "M": "cdgnot",
    "N": "abdehiop",
    "O": "gs",
    "P": "abdmortu",
    "R": "abefghnu",
    "S": "bcegimnr",
    "T": "abcehilms",
    "X": "e",
    "Y": "b",
    "Z": "nr",
}
_TWO_LETTERS = frozenset(first + second for first, seconds in _SECOND_LETTERS.items() for second in seconds)
_ELEMENTS = _TWO_LETTERS | frozenset("HBCNOFPSKVYIWU")
_AROMATIC = frozenset("bcnosp")


# One branch for each first letter: far fewer branches to try than one for each element.
_PAIRS = "|".join(f"{first}[{seconds}]" for first, seconds in _SECOND_LETTERS.items())
_UNIT = rf"(?>{_PAIRS}|[BCFHIKNOPSUVWYbcnops]|[().=\-#@\d$%*:+/\\])"
# A place where ten plain units follow, or fewer and then an atom in square brackets.
_START = re.compile(rf"(?![:.=])(?:{_UNIT}{{{MIN_UNITS}}}+|{_UNIT}{{0,{MIN_UNITS - 1}}}+\[)")
_START_WITHOUT_BRACKETS = re.compile(rf"(?![:.=]){_UNIT}{{{MIN_UNITS}}}+")
_RUN = re.compile(rf"{_UNIT}*+")
_ONE = re.compile(_UNIT)
_CLOSE = re.compile(r"\]")
_LOOSE_ENDS = re.compile(r"[:.=]*+")


def find_candidates(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of every candidate, left to right, as a greedy search from each place would find them."""
    return _Scanner(text).candidates()


def find_molecules(text: str, is_molecule: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """(start, end) of every candidate that is a molecule by the test and no part of a longer word."""
    for start, end in find_candidates(text):
        # Only ASCII letters count: a molecule may stand between Chinese characters.
        inside = _is_ascii_letter(text[start - 1 : start]) or _is_ascii_letter(text[end : end + 1])
        if not inside and is_molecule(text[start:end]):
            yield start, end


class _Scanner:
    """One pass over one text; remembers what it learned so that no stretch is walked again and again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._closes = [found.start() for found in _CLOSE.finditer(text)] if "[" in text else []
        self._last_close = self._closes[-1] if self._closes else -1
        self._loose_ends: dict[int, int] = {}

    def candidates(self) -> Iterator[tuple[int, int]]:
        position = 0
        while True:
            # After the last `]` no atom in brackets can be whole.
            pattern = _START if position < self._last_close else _START_WITHOUT_BRACKETS
            found = pattern.search(self._text, position)
            if found is None:
                return
            start = found.start()
            tenth = found.end() if self._text[found.end() - 1] != "[" else self._walk_ten(start)
            end = self._run_end(tenth) if tenth is not None else None
            if end is None:
                position = start + 1
            else:
                yield start, end
                position = end

    def _bracket_end(self, position: int) -> int | None:
        """The end of the atom in square brackets that starts here; it may not be empty."""
        place = bisect_left(self._closes, position)
        if place == len(self._closes) or self._closes[place] == position + 1:
            return None
        return self._closes[place] + 1

    def _unit_end(self, position: int) -> int | None:
        if self._text.startswith("[", position):
            return self._bracket_end(position)
        found = _ONE.match(self._text, position)
        return found.end() if found else None

    def _walk_ten(self, position: int) -> int | None:
        for _ in range(MIN_UNITS):
            end = self._unit_end(position)
            if end is None:
                return None
            position = end
        return position

    def _run_end(self, tenth: int) -> int | None:
        """Where the run ends, loose ends given back; None if nothing of at least ten units is left."""
        if self._text[tenth - 1] in ":.=":
            # All further units may be loose ends too. Their stretch is remembered: many starts can lead into it.
            if tenth not in self._loose_ends:
                self._loose_ends[tenth] = _end(_LOOSE_ENDS, self._text, tenth)
            tenth = self._loose_ends[tenth]
            if self._unit_end(tenth) is None:
                return None
        end = tenth
        while True:
            end = _end(_RUN, self._text, end)
            after = self._bracket_end(end) if self._text.startswith("[", end) else None
            if after is None:
                break
            end = after
        return tenth + len(self._text[tenth:end].rstrip(":.="))


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """The end of what the pattern matches here; `position` if nothing."""
    found = pattern.match(text, position)
    return found.end() if found else position


_FIVE_LETTERS = re.compile(r"(?:[^A-Za-z]*+[A-Za-z]){5}")
_UPPERCASE = re.compile(r"[A-Z]")
_BONDS = "-=#:/\\.$"
_TWO_BONDS = re.compile(r"[-=#:/\\.$]{2}")
_NESTED = re.compile(r"\[[^\[\]]*\[")
_LONG_WORD = re.compile(r"(?:[A-GI-Z]|[a-z]){3,}")
_LONG_NUMBER = re.compile(r"\d{4,}")
_NUMBER = re.compile(r"\d+")
_ATOM = re.compile(r"\[([^\[\]]*)\]")
_ALLOWED = re.compile(r"(?:Cl|Br|[BCNOPSFIbcnosp()\-=#:/\\.$;]|\d|%\d\d|\[[^\]]*\])*+")
_BRACKETED = re.compile(r"\[[^\]]*\]")
# Outside brackets `%dd` or one digit opens or closes a ring, but not one digit right after an atom that ends in `%`.
_RING = re.compile(r"\[[^\]]*\]|%\d\d|\d")
_PARENTHESES = re.compile(r"[()]")


def has_five_letters(candidate: str) -> bool:
    """Whether a candidate has five ASCII letters; anything less is no molecule, with RDKit or without."""
    return _FIVE_LETTERS.match(candidate) is not None


def accepts_by_rules(candidate: str) -> bool:
    """Whether a candidate passes the reference's rules, which stand in for RDKit."""
    if not has_five_letters(candidate) or candidate[0] in _BONDS or candidate[-1] in _BONDS:
        return False
    if _TWO_BONDS.search(candidate) or _NESTED.search(candidate) or not _ALLOWED.fullmatch(candidate):
        return False
    return (
        _first_atom_is_sane(candidate)
        and _parentheses_close_late(candidate)
        and _rings_close(candidate)
        and _atoms_are_sane(candidate)
    )


def _first_atom_is_sane(candidate: str) -> bool:
    # The reference looks at the first bracket only, whichever it means to check; kept, since ids depend on it.
    atom = _ATOM.search(candidate)
    if atom is None:
        return True
    span = atom.group(1)
    return not (_LONG_WORD.search(span) or _LONG_NUMBER.search(span) or len(_NUMBER.findall(span)) > 2)


def _parentheses_close_late(candidate: str) -> bool:
    """No `)` before its `(`; one that never closes is allowed."""
    depth = 0
    for parenthesis in _PARENTHESES.findall(candidate):
        depth += 1 if parenthesis == "(" else -1
        if depth < 0:
            return False
    return True


def _rings_close(candidate: str) -> bool:
    """Every ring mark an even number of times; and without a capital letter, at least two marks."""
    rings = _plain_ring_marks(candidate) if "%" not in candidate else _ring_marks(candidate)
    if any(count % 2 for mark, count in rings.items() if mark):
        return False
    return sum(rings.values()) >= 2 or _UPPERCASE.search(candidate) is not None


def _plain_ring_marks(candidate: str) -> dict[str, int]:
    """How often each ring is marked, where single digits are the only marks."""
    outside = _BRACKETED.sub("", candidate)
    return {letter: outside.count(letter) for letter in set(outside) if letter.isdecimal()}


def _ring_marks(candidate: str) -> dict[str, int]:
    """The same with marks such as `%12`. Digits that mark no ring are counted under an empty name."""
    rings: Counter[str] = Counter()
    skipped_place = -1
    for found in _RING.finditer(candidate):
        mark = found.group()
        if mark[0] == "[":
            skipped_place = found.end() if mark.endswith("%]") else -1
        elif found.start() == skipped_place and len(mark) == 1:
            rings[""] += 1
        else:
            rings[mark.lstrip("%")] += 1
    return rings


def _atoms_are_sane(candidate: str) -> bool:
    for atom in _ATOM.findall(candidate):
        if "(" in atom or ")" in atom or not atom:
            return False
        if atom[0] in _ELEMENTS or atom[0] in _AROMATIC or atom[:2] in _ELEMENTS:
            return True
    return True


def _is_ascii_letter(character: str) -> bool:
    return character.isascii() and character.isalpha()
