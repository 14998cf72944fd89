"""The nano checkpoint: a trained, tiny Intern-S1 in Hugging Face layout, shipped with the package."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
