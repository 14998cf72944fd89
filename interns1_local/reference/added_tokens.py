"""Added tokens cut out of a text as Hugging Face's Python tokenizers do, with `lstrip`, `rstrip` and `single_word`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interns1_local.reference.folder import added_tokens, read_json


class AddedTokens:
    """The added tokens of a checkpoint folder. `marks` are cut out too, but are no tokens."""

    def __init__(self, folder: Path, marks: Iterable[str] = ()) -> None:
        self.ids = added_tokens(folder)
        self.rules = _rules(folder)
        words = sorted({*self.ids, *marks}, key=len, reverse=True)
        self.pattern = re.compile("(" + ("|".join(map(re.escape, words)) or "(?!)") + ")")

    def split(self, text: str) -> list[str]:
        """Parts in order, none of them empty. Spaces that a token strips are in no part."""
        parts = [part for part in self.pattern.split(text) if part]
        for i, part in enumerate(parts):
            rules = self.rules.get(part, {})
            left = parts[i - 1] if i > 0 else None
            right = parts[i + 1] if i + 1 < len(parts) else None
            if rules.get("rstrip") and right:
                parts[i + 1] = right.lstrip()
            if rules.get("lstrip") and left:
                parts[i - 1] = left.rstrip()
            if rules.get("single_word") and left and not left.endswith(" "):
                parts[i - 1] += part
                parts[i] = ""
            elif rules.get("single_word") and right and not right.startswith(" "):
                parts[i + 1] = part + parts[i + 1]
                parts[i] = ""
        return [part for part in parts if part]


def _rules(folder: Path) -> dict[str, dict[str, Any]]:
    """Spelling -> the entry that says how it behaves; tokenizer_config.json wins, as in transformers."""
    fast = read_json(folder / "tokenizer.json", required=False).get("added_tokens") or []
    decoder = read_json(folder / "tokenizer_config.json", required=False).get("added_tokens_decoder") or {}
    return {str(entry["content"]): entry for entry in [*fast, *decoder.values()]}
