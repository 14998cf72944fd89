"""Logits of many positions at once are those that one gets position by position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.llama import Aborted, Batch, Context, EngineError, Model
from interns1_local.engine.scoring import Scorer, leading_token
from interns1_local.errors import BadRequest
from quant.gguf_file import read_metadata

TOKENS = [(7 * i * i + 3 * i) % 250 for i in range(40)]


@pytest.fixture(scope="module")
def model(tiny_model: tuple[Path, Path]) -> Iterator[Model]:
    loaded = Model(tiny_model[0])
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def one_by_one(model: Model) -> dict[str, np.ndarray]:
    """For keys and values of each type float32[len(TOKENS), vocabulary], one decode for each token."""
    found = {}
    for kv_type in ("f16", "f32"):
        context = Context(model, 64, 1, 1, 1, kv_type)
        batch = Batch(1)
        rows = []
        for position, token in enumerate(TOKENS):
            batch.clear()
            index = batch.add([token], position, 0, n_outputs=1)
            context.decode(batch)
            rows.append(context.logits(index).copy())
        context.close()
        found[kv_type] = np.stack(rows)
    return found


@pytest.mark.parametrize("n_batch", [1, 7, 16, 128])
@pytest.mark.parametrize("positions", [range(40), range(20, 39), range(31, 32)])
@pytest.mark.parametrize(("exact", "kv_type", "close"), [(False, "f16", 5e-3), (True, "f32", 1e-4)])
def test_all_positions(
    n_batch: int,
    positions: range,
    exact: bool,
    kv_type: str,
    close: float,
    model: Model,
    one_by_one: dict[str, np.ndarray],
) -> None:
    scorer = Scorer(model, 40, 1, n_batch, exact=exact)
    logits = scorer.logits([TOKENS], positions)
    scorer.close()
    assert logits.dtype == np.float32
    assert logits.shape == (len(positions), model.vocab.n_tokens)
    np.testing.assert_allclose(logits, one_by_one[kv_type][positions.start : positions.stop], atol=close)


def test_rows_in_the_place_of_tokens(tiny_model: tuple[Path, Path], model: Model) -> None:
    """The rows of the embedding matrix compute what their tokens do."""
    embedding = next(tensor for tensor in read_metadata(tiny_model[0]).tensors if tensor.name == "token_embd.weight")
    table = np.memmap(tiny_model[0], np.float32, "r", embedding.offset, embedding.shape)
    scorer = Scorer(model, 40, 1, 16, exact=True)
    expected = scorer.logits([TOKENS])
    assert expected.shape == (40, model.vocab.n_tokens)
    for first, last in ((0, 3), (5, 38), (39, 40)):
        parts = [TOKENS[:first], np.array(table[TOKENS[first:last]]), TOKENS[last:]]
        np.testing.assert_allclose(scorer.logits(parts), expected, atol=1e-5)
        np.testing.assert_allclose(scorer.logits(parts, range(4, 37)), expected[4:37], atol=1e-5)
    scorer.close()


def test_each_call_starts_afresh(model: Model) -> None:
    scorer = Scorer(model, 40, 1, 16)
    first = scorer.logits([TOKENS], range(20, 39))
    scorer.logits([TOKENS[::-1]], range(5, 40))
    assert np.array_equal(scorer.logits([TOKENS], range(20, 39)), first)
    # What lies behind the last position has no say.
    assert np.array_equal(scorer.logits([[*TOKENS[:39], 1]], range(20, 39)), first)
    scorer.close()


@pytest.mark.parametrize("positions", [range(41), range(-1, 3), range(3, 3), range(0, 40, 2)])
def test_positions_that_are_not_there(positions: range, model: Model) -> None:
    scorer = Scorer(model, 40, 1)
    with pytest.raises(BadRequest, match="40 tokens cannot be scored in a context of 40"):
        scorer.logits([TOKENS], positions)
    scorer.close()


def test_bad_texts(model: Model) -> None:
    scorer = Scorer(model, 16, 1)
    with pytest.raises(BadRequest, match="40 tokens cannot be scored in a context of 16"):
        scorer.logits([TOKENS], range(3, 5))
    with pytest.raises(BadRequest, match="token id 999999 is not in the vocabulary"):
        scorer.logits([[1, 999999]], range(2))
    scorer.close()


def test_abort_ends_a_computation(model: Model) -> None:
    scorer = Scorer(model, 40, 1)
    scorer.abort()
    with pytest.raises(Aborted):
        scorer.logits([TOKENS], range(20, 39))
    scorer.close()


def test_more_outputs_than_a_context_has_room_for(model: Model) -> None:
    """Each of these would end the process in C."""
    context = Context(model, 64, 16, 1, 1, n_outputs=4)
    batch = Batch(16)
    batch.add(TOKENS[:10], 0, 0, n_outputs=0)
    batch.outputs[:5] = 1
    with pytest.raises(EngineError, match="10 tokens with 5 outputs"):
        context.decode(batch)
    batch.outputs[:5] = [1, 1, 1, 1, 0]
    context.decode(batch)
    assert np.isfinite(context.logits(3)).all()
    with pytest.raises(EngineError, match="index 4 has no logits"):
        context.logits(4)
    context.close()
    for n_seq_max, n_outputs in ((8, 4), (1, 17)):
        with pytest.raises(BadRequest, match=f"{n_outputs} outputs do not fit {n_seq_max} sequences"):
            Context(model, 64, 16, n_seq_max, 1, n_outputs=n_outputs)


def test_byte_level_vocabularies_begin_a_text_with_nothing(model: Model) -> None:
    assert leading_token(model) is None
