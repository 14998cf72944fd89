"""A model of no opinion: random tokens of a small vocabulary, each of those that a grammar or a guide allows."""

from __future__ import annotations

import numpy as np

from interns1_local.engine.grammar import GrammarCompiler, Matcher
from interns1_local.engine.guide import Guide, Marks

WORDS = (
    b'{"', b'":', b'": "', b'", "', b'"}', b'"}}', b"}\n", b'": ', b", ", b"\n\n", b"  ", b"    ", b"name", b"true",
    b"null", b"12", b"add", b'{"name"', b'"parameters": {"', b"ab", b"abc", b"<think", b"</think>\n\n{", b">\n", b">{",
    b"\xc3\xa9", b"parameter", b"</", b"<",
)  # fmt: skip
MARKS = (
    b"<|end|>", b"<think>", b"</think>", b"<|action_start|>", b"<|plugin|>", b"<|action_end|>", b"<tool_call>",
    b"</tool_call>", b"<|hidden|>",
)  # fmt: skip
PIECES = [*(bytes([byte]) for byte in range(256)), *WORDS, *MARKS]
IDS = {piece: token for token, piece in reversed(list(enumerate(PIECES)))}
END = IDS[b"<|end|>"]
MARK_IDS = [IDS[mark] for mark in MARKS]
# A walk that may do anything soon does something that takes for ever: what ends is chosen a little more often.
ENDING = np.array([token for token, piece in enumerate(PIECES) if piece[:1] in b'"}]<\n' or token == END])


def compiler(pieces: list[bytes] | None = None) -> GrammarCompiler:
    return GrammarCompiler(pieces or PIECES, MARK_IDS, [END])


def row(random: np.random.Generator) -> np.ndarray:
    logits = random.gumbel(size=len(PIECES)).astype(np.float32)
    logits[ENDING] += 3
    return logits


def walk(matcher: Matcher, random: np.random.Generator, limit: int = 2000) -> tuple[bytes, bool]:
    """The bytes of a random walk, and whether it came to an end."""
    text = b""
    for _ in range(limit):
        logits = np.where(matcher.allowed(), row(random), -np.inf)
        token = int(logits.argmax())
        assert np.isfinite(logits[token]), f"nothing may follow {text!r}"
        if token == END:
            return text, True
        matcher.consume(token)
        text += PIECES[token]
        if matcher.finished:
            return text, True
    return text, False


def guided_walk(guide: Guide, random: np.random.Generator, limit: int = 600) -> tuple[list[int], bool]:
    """The ids of a random walk as the engine takes it, and whether it came to an end."""
    ids: list[int] = []
    while len(ids) < limit:
        token = guide.forced()
        if token is None:
            logits = row(random)
            guide.restrict(logits)
            token = int(logits.argmax())
            assert np.isfinite(logits[token]), f"nothing may follow {text_of(ids)!r}"
            if token == END:
                token = guide.instead_of_end()
                if token is None:
                    return ids, True
        guide.accept(token)
        ids.append(token)
        if guide.finished:
            return ids, True
    return ids, False


def text_of(ids: list[int]) -> bytes:
    return b"".join(PIECES[token] for token in ids)


def marks(spelled: bool = False) -> Marks:
    """What the tokens mean; `spelled`: the marks of a thought are no tokens, and have to be spelled."""
    pieces = PIECES
    if spelled:
        pieces = [b"<other>" if piece in (b"<think>", b"</think>") else piece for piece in PIECES]
    closing = [10, *b"</think>", 10, 10] if spelled else [10, IDS[b"</think>"], IDS[b"\n\n"]]
    return Marks.of(pieces, closing)
