"""The sizes in docs/models.md are those that `interns1 doctor` plans models with that are not here."""

from __future__ import annotations

import pytest

from benchmarks.model_sizes import MODELS, TYPE_NAMES, size
from interns1_local.runners.known_shapes import KNOWN


@pytest.mark.parametrize("name", KNOWN)
def test_the_page_and_doctor_agree(name: str) -> None:
    known = KNOWN[name]
    model = next(model for model in MODELS if model.name.lower() == name)
    for type in TYPE_NAMES:
        found, shape = size(model, type), known.shape(type, "Q8_0")
        assert found.model == pytest.approx(shape.weight_bytes, rel=0.015)
        assert found.vision == pytest.approx(shape.vision.n_bytes if shape.vision else 0, rel=0.03)
