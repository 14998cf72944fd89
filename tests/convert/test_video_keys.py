"""What a checkpoint's processors say about films, in the metadata of its vision file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from convert.hf_to_gguf import convert
from interns1_local.runners.model_spec import read_model_facts
from tests.tiny import tiny_interns1

DEFAULT = (None, None, "Frame{i}: ")


@pytest.mark.parametrize(
    ("settings", "processor", "expected"),
    [
        (None, None, DEFAULT),
        ({"num_frames": None, "fps": None, "do_sample_frames": False}, "x = 1", DEFAULT),
        ({"num_frames": 24}, None, (24, None, "Frame{i}: ")),
        ({"fps": 2}, None, (None, 2.0, "Frame{i}: ")),
        ({"num_frames": 8, "fps": 2}, None, (8, None, "Frame{i}: ")),
        ({"num_frames": True, "fps": "2"}, None, DEFAULT),
        (None, 'text = f"Frame{i + 1}: {self.start}"', DEFAULT),
        (None, 'text = f"Frame-{frame_idx + 1}: {IMAGE}"', (None, None, "Frame-{i}: ")),
        (None, "text = f'Frame-{i+1}: {image}'", (None, None, "Frame-{i}: ")),
    ],
)
def test_keys(settings: dict[str, Any] | None, processor: str | None, expected: Any, tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint")
    if settings is not None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))
    if processor is not None:
        (folder / "processing_interns1.py").write_text(processor)
    convert(folder, tmp_path / "model.gguf", mmproj=tmp_path / "mmproj.gguf", jobs=1)
    vision = read_model_facts(tmp_path / "model.gguf", tmp_path / "mmproj.gguf").vision
    assert vision is not None
    assert (vision.num_frames, vision.fps, vision.frame_prefix) == expected
