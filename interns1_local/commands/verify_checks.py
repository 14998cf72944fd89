"""The comparisons of `interns1 verify`, and what is expected of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from interns1_local.commands.verify_gguf import GGUFSide, Pixels
from interns1_local.commands.verify_texts import CONVERSATION, QUESTION, drawings
from interns1_local.engine.scoring import Matrix
from interns1_local.errors import InternS1Error, LoadError
from interns1_local.media.image import load_image
from interns1_local.reference.checkpoint import Reference
from interns1_local.reference.figures import LogitFigures, compare_logits, compare_rows, together
from interns1_local.reference.interns1 import IMAGE
from interns1_local.tokenizer.science import ImageSlot

HOLDS, DIFFERS, REPORTED = "holds", "DIFFERS", "reported"
IDS, LOGITS, SCORE, TILES, EMBEDDINGS = "token ids", "logits", "score", "tiles", "image embeddings"
CLOSE = 0.9999
LARGEST_SCORE_DIFFERENCE = 0.01
# Two correct ways of stretching a picture may round a level up or down.
LARGEST_LEVEL_DIFFERENCE = 1
CHAT = "chat, by the template"

# KL in nats, mean over positions -> what it means to somebody who uses the model.
_READINGS = (
    (0.001, "cannot be told from the reference in use"),
    (0.01, "very close: answers seldom change"),
    (0.05, "close: a small loss, as of a good 4 to 6 bit file"),
    (0.2, "a loss that can be noticed"),
)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: what was compared, whether it is as it must be, and the figures."""

    kind: str
    subject: str
    verdict: str
    reading: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to be looked at: its file's bytes, and what the reference is given of it."""

    name: str
    data: bytes
    image: Any


class Verification:
    """Runs the comparisons of one file with one checkpoint; `checks` and `notes` grow as they run."""

    def __init__(self, ours: GGUFSide, reference: Reference, tokens: int, tell: Callable[[str], None]) -> None:
        if (ours.reward is not None) != reference.is_reward:
            raise LoadError(
                f"the checkpoint is {reference.architecture} and the GGUF is {'no' if reference.is_reward else 'a'} "
                "reward model; name the checkpoint that the GGUF was made from"
            )
        self.ours, self.reference = ours, reference
        self.limit = max(1, min(tokens, reference.max_positions, ours.facts.context_length or tokens))
        self.checks: list[Check] = []
        self.notes: list[str] = []
        self._tell = tell
        self._logits: list[LogitFigures] = []

    @property
    def ok(self) -> bool:
        return all(check.verdict != DIFFERS for check in self.checks)

    def logits_together(self) -> LogitFigures | None:
        """All texts as one."""
        return together(self._logits) if self._logits else None

    def texts(self, texts: Mapping[str, str]) -> None:
        """Ids of every text, then the model's numbers for them."""
        subjects: list[tuple[str, list[int]]] = []
        for name, text in texts.items():
            self._tell("reading the texts")
            expected = self.reference.encode(text)
            self.checks.append(compare_ids(self.reference, name, expected, self.ours.ids(text)))
            subjects.append((name, expected))
        subjects += self._chat()
        for name, ids in subjects:
            self._tell(f"computing: {name}")
            if ids and self.ours.reward is not None:
                self._score(name, ids)
            elif ids:
                # The reference's ids for both, so that one wrong id does not hide what the weights do.
                figures = self._compare(name, ids[: self.limit], [ids[: self.limit]], None, self.ours.is_exact)
                self._logits.append(figures)

    def pictures(self, pictures: Sequence[Picture]) -> None:
        for picture in pictures:
            self._tell(f"looking at: {picture.name}")
            self._picture(picture)

    def _chat(self) -> list[tuple[str, list[int]]]:
        """The built-in conversation through both templates."""
        answer = not self.reference.is_reward
        text = self.reference.render(CONVERSATION, add_generation_prompt=answer)
        if text is None:
            self.notes.append("The checkpoint has no chat template: none was compared.")
            return []
        expected = self.reference.encode(text)
        try:
            found = self.ours.chat(CONVERSATION, answer=answer)
        except InternS1Error as error:
            self.checks.append(Check(IDS, CHAT, DIFFERS, error.message))
            return [(CHAT, expected)]
        self.checks.append(compare_ids(self.reference, CHAT, expected, found))
        return [(CHAT, expected)]

    def _compare(
        self, name: str, ids: list[int], parts: list[Sequence[int] | Matrix], pixels: Any, exact: bool
    ) -> LogitFigures:
        expected = self.reference.logits(ids, pixels)
        if expected.shape[1] != self.ours.n_vocab:
            raise LoadError(
                f"the checkpoint has {expected.shape[1]} tokens and the GGUF {self.ours.n_vocab}; "
                "name the checkpoint that the GGUF was made from"
            )
        figures = compare_logits(expected, self.ours.logits(parts))
        verdict, reading = judge_logits(figures, exact and not self.reference.rounded)
        self.checks.append(Check(LOGITS, name, verdict, reading, asdict(figures)))
        return figures

    def _score(self, name: str, ids: list[int]) -> None:
        token = self.reference.reward_token
        ids = [*ids[: self.limit - 1], token]
        state, score = self.reference.state_and_score(ids)
        our_state, our_score = self.ours.state_and_score(ids)
        if self.ours.reward is not None and self.ours.reward[0] != token:
            self.checks.append(
                Check(SCORE, name, DIFFERS, f"the reward token is {self.ours.reward[0]}; {token} was expected")
            )
            return
        figures: dict[str, Any] = {"reference": score, "ours": None, "difference": None, "cosine": None}
        verdict, reading = DIFFERS, "not a finite number"
        if np.isfinite(our_state).all() and np.isfinite(our_score):
            cosine = compare_rows(state[None], our_state[None]).cosine_min
            figures |= {"ours": our_score, "difference": abs(our_score - score), "cosine": cosine}
            verdict, reading = REPORTED, f"{our_score:+.4f} for {score:+.4f}"
            if self.ours.is_exact and not self.reference.rounded:
                near = cosine > CLOSE and abs(our_score - score) < LARGEST_SCORE_DIFFERENCE
                verdict = HOLDS if near else DIFFERS
        self.checks.append(Check(SCORE, name, verdict, reading, figures))

    def _picture(self, picture: Picture) -> None:
        judge = self.reference.vision
        assert judge is not None
        exact = self.ours.vision_is_exact and not self.reference.rounded
        pixels, _ = judge.tiles([picture.image])
        assert pixels is not None
        levels: Pixels = judge.levels(pixels).round().clamp(0, 255).byte().contiguous().numpy()
        self.checks.append(compare_tiles(picture.name, levels, self.ours.tiles(picture.data)))
        expected: Matrix = judge.image_embeddings(pixels).flatten(0, 1).float().numpy()
        side = self.ours.vision.tile_size
        # Of the reference's tiles, so that the tower is judged by itself.
        found = self.ours.embeddings(levels) if levels.shape[1] == side else np.zeros((0, 0), np.float32)
        if found.shape != expected.shape:
            reading = f"the file makes {list(found.shape)} of tiles of {levels.shape[1]} pixels, not "
            self.checks.append(Check(EMBEDDINGS, picture.name, DIFFERS, f"{reading}{list(expected.shape)}"))
            return
        rows = compare_rows(expected, found)
        verdict = REPORTED if not exact else HOLDS if rows.cosine_min > CLOSE else DIFFERS
        reading = f"cosine {rows.cosine_min:.6f} at the least"
        self.checks.append(Check(EMBEDDINGS, picture.name, verdict, reading, asdict(rows)))
        # With the reference's embeddings, so that the text model is judged by itself: among experts that score almost
        # the same, the tower's rounding alone would choose another one now and then.
        self._picture_prompt(picture, expected)

    def _picture_prompt(self, picture: Picture, embeddings: Matrix) -> None:
        """A question about the picture, ids and logits."""
        judge = self.reference.vision
        assert judge is not None
        if IMAGE not in (self.reference.template or ""):
            self.notes.append(f"The checkpoint's template has no place for pictures: no prompt with {picture.name}.")
            return
        parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
        ids, pixels = judge.prompt([{"role": "user", "content": parts}], [picture.image])
        place = int(judge.config["image_token_id"])
        name = f"prompt with {picture.name}"
        try:
            found = self.ours.chat([{"role": "user", "content": QUESTION}], picture.data)
        except InternS1Error as error:
            self.checks.append(Check(IDS, name, DIFFERS, error.message))
            return
        flat = [place] * len(embeddings)
        ours = [id for part in found for id in (flat if isinstance(part, ImageSlot) else [part])]
        self.checks.append(compare_ids(self.reference, name, ids, ours))
        if len(ids) > (self.ours.facts.context_length or len(ids)):
            self.notes.append(f"{picture.name}: its {len(ids)} tokens do not fit the context; no logits were compared.")
            return
        first = ids.index(place)
        split: list[Sequence[int] | Matrix] = [ids[:first], embeddings, ids[first + len(embeddings) :]]
        self._compare(name, ids, split, pixels, self.ours.is_exact and self.ours.vision_is_exact)


def compare_ids(reference: Reference, name: str, expected: Sequence[int], found: Sequence[int]) -> Check:
    """Whether two id lists are the same, else the first place where they are not, with the text around it."""
    figures: dict[str, Any] = {"reference_tokens": len(expected), "tokens": len(found)}
    if list(expected) == list(found):
        return Check(IDS, name, HOLDS, f"{len(found)} ids, all the same", figures)
    same = min(len(expected), len(found))
    at = next((i for i in range(same) if expected[i] != found[i]), same)
    figures |= {
        "first_difference": at,
        "reference_id": expected[at] if at < len(expected) else None,
        "id": found[at] if at < len(found) else None,
        "text_before": reference.spell(expected[max(0, at - 12) : at]),
        "reference_text": reference.spell(expected[at : at + 4]),
        "text": reference.spell(found[at : at + 4]),
    }
    reading = (
        f"token {at}, after {figures['text_before']!r}: the reference has {figures['reference_id']} "
        f"({figures['reference_text']!r}), the file {figures['id']} ({figures['text']!r}); "
        f"{len(found)} tokens for {len(expected)}"
    )
    return Check(IDS, name, DIFFERS, reading, figures)


def compare_tiles(name: str, expected: Pixels, found: Pixels) -> Check:
    figures: dict[str, Any] = {"reference_tiles": len(expected), "tiles": len(found), "max_level_difference": None}
    if expected.shape != found.shape:
        shapes = f"{list(found.shape[:3])} for {list(expected.shape[:3])} (tiles, height, width)"
        return Check(TILES, name, DIFFERS, f"the picture is cut otherwise: {shapes}", figures)
    most = int(np.abs(expected.astype(np.int16) - found.astype(np.int16)).max())
    figures["max_level_difference"] = most
    verdict = HOLDS if most <= LARGEST_LEVEL_DIFFERENCE else DIFFERS
    count = "1 tile" if len(found) == 1 else f"{len(found)} tiles"
    return Check(TILES, name, verdict, f"{count}, colours at most {most} of 255 levels apart", figures)


def judge_logits(figures: LogitFigures, exact: bool) -> tuple[str, str]:
    """The verdict, and what the figures mean in plain words."""
    if figures.not_finite:
        return DIFFERS, f"not a finite number at {figures.not_finite} of {figures.positions} positions"
    assert figures.cosine_min is not None and figures.kl_mean is not None
    if not exact:
        return REPORTED, read_divergence(figures.kl_mean)
    if figures.cosine_min > CLOSE:
        return HOLDS, "the same computation, but for rounding"
    return DIFFERS, f"cosine {figures.cosine_min:.6f} at one position at least; above {CLOSE} was expected everywhere"


def read_divergence(kl: float) -> str:
    """What a mean divergence means, in plain words."""
    return next((words for most, words in _READINGS if kl < most), "far from the reference: expect worse answers")


def load_pictures(side: int, files: Sequence[Path]) -> list[Picture]:
    """The built-in drawings for tiles of `side` pixels, then the given files."""
    from transformers.image_utils import load_image as load_as_transformers

    pictures = []
    for name, image in drawings(side).items():
        data = BytesIO()
        image.save(data, "PNG")
        pictures.append(Picture(name, data.getvalue(), image))
    for path in files:
        content = path.read_bytes()
        # Ours first: its errors say what is wrong with the file.
        load_image(content)
        pictures.append(Picture(path.name, content, load_as_transformers(str(path))))
    return pictures
