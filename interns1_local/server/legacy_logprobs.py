"""Log-probabilities in the form of OpenAI's completions: four lists side by side."""

from __future__ import annotations

from collections.abc import Sequence

from interns1_local.runners.protocol import TokenLogprob
from interns1_local.server.streaming import Json
from interns1_local.tokenizer.detokenizer import IncrementalText


class LegacyLogprobs:
    """The lists of one choice, also piece by piece: offsets in its text go on from the piece before."""

    def __init__(self, with_top: bool) -> None:
        self._with_top = with_top
        self._text = IncrementalText()
        self._offset = 0

    def json(self, tokens: Sequence[TokenLogprob], *, begins_prompt: bool = False) -> Json:
        """The next tokens. The first one of a prompt has nothing before it: no log-probability."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._text.decode(token.data))
        unknown = [begins_prompt and index == 0 for index in range(len(tokens))]
        top = [None if none else _alternatives(token) for token, none in zip(tokens, unknown, strict=True)]
        return {
            "tokens": [_name(token.data) for token in tokens],
            "token_logprobs": [None if none else token.logprob for token, none in zip(tokens, unknown, strict=True)],
            "top_logprobs": top if self._with_top else None,
            "text_offset": offsets,
        }


def joined(pieces: Sequence[Json]) -> Json:
    """Pieces as one."""
    return {
        key: None if pieces[0][key] is None else [entry for piece in pieces for entry in piece[key]]
        for key in pieces[0]
    }


def _alternatives(token: TokenLogprob) -> dict[str, float]:
    """The best ones, and the chosen one if it is not among them."""
    return {_name(other.data): other.logprob for other in (*token.top, token)}


def _name(data: bytes) -> str:
    """A token as text; part of a character as OpenAI spells it."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
