"""Pictures among other requests: the tower works beside the engine, and whoever leaves leaves at once.

The tower here lets a tile through when a test says so; what it computes is real.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineOptions, EngineRequest, StepOutput
from interns1_local.engine.llama import EngineError, Model
from interns1_local.engine.multimodal import Embeddings, VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.sequence import Tile
from interns1_local.engine.vision_thread import AHEAD, VisionThread

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
LONGEST_WAIT = 60


class Gate(VisionEncoder):
    """A tower that a tile enters at once, and leaves when there is a pass for it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pause: Callable[[], None] = arguments[-1] or (lambda: None)
        self.entered: list[bytes] = []
        self.events: list[str] = []
        self.broken: set[bytes] = set()
        self.error: Exception = EngineError("this tile cannot be read")
        self.arrived, self.passes = threading.Semaphore(0), threading.Semaphore(0)

    def open(self, count: int = 1000) -> None:
        self.passes.release(count)

    def wait_for_a_tile(self) -> None:
        assert self.arrived.acquire(timeout=LONGEST_WAIT)

    def close(self) -> None:
        super().close()
        self.events.append("freed")

    def _compute(self, tile: Tile) -> Embeddings:
        self.entered.append(tile.digest)
        self.arrived.release()
        while not self.passes.acquire(timeout=0.002):
            self.pause()
        if tile.digest in self.broken:
            raise self.error
        rows = super()._compute(tile)
        self.events.append("computed")
        return rows


class Conversation:
    """An engine with a gate, and what it has said."""

    def __init__(self, paths: tuple[Path, Path], **options: Any) -> None:
        chosen = EngineOptions(**({"n_ctx": 512, "n_batch": 128, "n_seq_max": 4} | options))
        self.engine = Engine(*paths, chosen, open_vision=Gate)
        assert isinstance(self.engine.vision, Gate)
        self.gate = self.engine.vision
        self.outputs: dict[int, list[StepOutput]] = {}

    def ask(self, id: int, prompt: list[Any], max_tokens: int = 6) -> None:
        self.outputs[id] = []
        self.engine.add_request(EngineRequest(id, prompt, GREEDY, max_tokens))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for output in self.engine.step():
                self.outputs[output.request_id].append(output)

    def finish(self) -> None:
        while self.engine.has_work:
            self.step()

    def ids(self, id: int) -> list[int]:
        return [token for output in self.outputs[id] for token in output.token_ids]

    def computed(self, id: int) -> int:
        usage = self.outputs[id][-1].usage
        assert usage is not None
        return usage.tiles_computed


@pytest.fixture
def talk(tiny_model: tuple[Path, Path]) -> Iterator[Callable[..., Conversation]]:
    made: list[Conversation] = []

    def make(**options: Any) -> Conversation:
        made.append(Conversation(tiny_model, **options))
        return made[-1]

    yield make
    for conversation in made:
        conversation.gate.open()
        conversation.engine.close()


def tiles(count: int, seed: int = 0) -> list[Tile]:
    random = np.random.default_rng(seed)
    return [Tile.of(random.integers(0, 256, (56, 56, 3), np.uint8), 4) for _ in range(count)]


def test_others_get_their_tokens_while_a_tile_is_in_the_tower(talk: Callable[..., Conversation]) -> None:
    calm, busy = talk(), talk()
    picture = [1, 2, 3, *tiles(3), 4]
    calm.gate.open()
    for id, prompt in ((1, [5, 6, 7]), (2, picture)):
        calm.ask(id, prompt, 40)
        calm.finish()
    busy.ask(1, [5, 6, 7], 40)
    busy.step()
    busy.ask(2, picture, 40)
    busy.step(2)
    busy.gate.wait_for_a_tile()
    before = len(busy.ids(1))
    busy.step(10)
    assert len(busy.ids(1)) == before + 10
    # A prompt without a picture overtakes the one that waits, too.
    busy.ask(3, [9, 8], 3)
    busy.step(5)
    assert busy.outputs[3][-1].finish == "length"
    assert busy.outputs[2] == [] and len(busy.gate.entered) == 1
    busy.gate.open()
    busy.finish()
    assert [busy.ids(id) for id in (1, 2)] == [calm.ids(id) for id in (1, 2)]
    assert busy.computed(2) == 3


def test_the_text_before_a_tile_is_computed_meanwhile(talk: Callable[..., Conversation]) -> None:
    subject = talk()
    subject.ask(1, [*range(1, 200), *tiles(1), 4])
    subject.step(2)
    subject.gate.wait_for_a_tile()
    assert subject.engine.context.last_position(0) == 198
    subject.gate.open()
    subject.finish()
    assert len(subject.ids(1)) == 6


def test_cancelling_in_the_middle_of_a_tile_frees_all_at_once(talk: Callable[..., Conversation]) -> None:
    subject = talk(n_seq_max=1)
    free = subject.engine._scheduler.pool.n_free
    subject.ask(1, [1, 2, *tiles(1), 4])
    subject.step()
    subject.gate.wait_for_a_tile()
    subject.engine.abort(1)
    subject.step()
    assert [output.finish for output in subject.outputs[1]] == ["cancelled"]
    assert subject.engine._scheduler.pool.n_free == free and not subject.engine.has_work
    # The only place is free as well, with the tile still in the tower.
    subject.ask(2, [5, 6], 3)
    subject.finish()
    assert len(subject.ids(2)) == 3 and subject.gate.events == []


def test_a_cancelled_tile_is_there_for_the_next(talk: Callable[..., Conversation]) -> None:
    subject = talk()
    subject.ask(1, [1, 2, *tiles(1), 4])
    subject.step()
    subject.gate.wait_for_a_tile()
    subject.engine.abort(1)
    subject.step()
    # Asked for again in the tower, it is not computed twice.
    subject.ask(2, [7, *tiles(1), 4])
    subject.step()
    subject.gate.open()
    subject.finish()
    assert (len(subject.gate.entered), subject.computed(2)) == (1, 1)
    subject.ask(3, [8, *tiles(1), 4])
    subject.finish()
    assert (len(subject.gate.entered), subject.computed(3)) == (1, 0)


def test_a_sleeping_engine_wakes_when_a_request_comes_or_goes(talk: Callable[..., Conversation]) -> None:
    subject = talk()
    subject.ask(1, [1, *tiles(1), 4])
    subject.step()
    subject.gate.wait_for_a_tile()

    def during_a_step(news: Callable[[], None]) -> None:
        stepping = threading.Thread(target=subject.step)
        stepping.start()
        news()
        stepping.join(LONGEST_WAIT)
        assert not stepping.is_alive()

    during_a_step(lambda: subject.ask(2, [1, 2], 3))
    while len(subject.ids(2)) < 3:
        subject.step()
    during_a_step(lambda: subject.gate.open(1))
    during_a_step(lambda: subject.engine.abort(1))
    subject.finish()
    assert subject.outputs[1][-1].finish == "cancelled"
    subject.ask(3, [2, *tiles(1, seed=1), 4])
    subject.step()
    subject.gate.wait_for_a_tile()
    during_a_step(subject.engine.interrupt)


def test_two_requests_with_one_picture_encode_it_once(talk: Callable[..., Conversation]) -> None:
    subject = talk()
    first, second = tiles(2)
    # A different beginning each: nothing but the rows can be shared.
    subject.ask(1, [1, first, second, first, 4])
    subject.ask(2, [2, first, second, 5])
    subject.step(1)
    subject.gate.wait_for_a_tile()
    subject.gate.open()
    subject.finish()
    assert subject.gate.entered == [first.digest, second.digest]
    assert subject.computed(1) + subject.computed(2) == 2
    assert len(subject.ids(1)) == len(subject.ids(2)) == 6


def test_pictures_go_through_the_tower_in_order_of_arrival(talk: Callable[..., Conversation]) -> None:
    subject = talk(n_ctx=128, n_cells=512, image_cache_bytes=0)
    pictures = [tiles(4, seed) for seed in range(3)]
    for id, picture in enumerate(pictures):
        subject.ask(id, [id, *picture, 4])
    subject.gate.open()
    subject.finish()
    order = [subject.gate.entered.index(tile.digest) for picture in pictures for tile in picture]
    # Nothing is computed twice, though the tower remembers a single tile.
    assert len(subject.gate.entered) == 12
    assert order[:4] == sorted(order[:4]) and order[0] < order[4] < order[8]
    assert [subject.computed(id) for id in range(3)] == [4, 4, 4]


@pytest.mark.parametrize("error", [EngineError("this tile cannot be read"), MemoryError("no room")])
def test_an_error_ends_those_who_need_the_tile(error: Exception, talk: Callable[..., Conversation]) -> None:
    subject = talk()
    good, bad = tiles(2)
    subject.gate.broken, subject.gate.error = {bad.digest}, error
    for id, prompt in enumerate(([1, good, 4], [2, bad, 4], [3, good, bad, 4], [4, 5, 6])):
        subject.ask(id, prompt)
    subject.step(2)
    subject.gate.open()
    subject.finish()
    assert [subject.outputs[id][-1].finish for id in range(4)] == ["length", None, None, "length"]
    for id in (1, 2):
        found = subject.outputs[id][-1].error
        assert isinstance(found, EngineError) and str(error) in found.message
    # What failed is not remembered as such.
    subject.gate.broken = set()
    subject.ask(9, [2, bad, 4])
    subject.finish()
    assert len(subject.ids(9)) == 6


def test_a_remembered_picture_needs_no_tower(talk: Callable[..., Conversation]) -> None:
    subject = talk()
    subject.gate.open(2)
    subject.ask(1, [1, *tiles(2), 4])
    subject.finish()
    # Nobody opens the gate again; the beginning is another, so that all places are filled anew.
    subject.ask(2, [2, 3, *tiles(2), 4])
    subject.finish()
    assert (len(subject.ids(2)), subject.computed(2), len(subject.gate.entered)) == (6, 0, 2)


def test_closing_waits_for_the_tile_in_the_tower(tiny_model: tuple[Path, Path]) -> None:
    subject = Conversation(tiny_model)
    subject.ask(1, [1, *tiles(1), 4])
    subject.step()
    subject.gate.wait_for_a_tile()
    closing = threading.Thread(target=subject.engine.close)
    closing.start()
    subject.gate.open()
    closing.join(LONGEST_WAIT)
    assert subject.gate.events == ["computed", "freed"]
    with pytest.raises(EngineError, match="closed"):
        subject.gate.encode(tiles(1, seed=1)[0])


def test_the_encoder_itself_is_not_freed_under_a_tile(tiny_model: tuple[Path, Path]) -> None:
    model = Model(tiny_model[0], ON_CPU)
    gate = Gate(tiny_model[1], model, 1, False, 0, None, lambda: None)
    thread = VisionThread(gate, lambda: None)
    thread.want(tiles(AHEAD))
    gate.wait_for_a_tile()
    closing = threading.Thread(target=gate.close)
    closing.start()
    gate.open()
    closing.join(LONGEST_WAIT)
    thread.close()
    assert gate.events[0] == "computed" and gate.events[-1] == "freed"
    model.close()
