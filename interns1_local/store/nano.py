"""The model that is always there: the shipped checkpoint, converted into the store without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interns1_local.errors import NotFound
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.name import ModelName

if TYPE_CHECKING:
    from interns1_local.store.create import Progress, Status

NANO = ModelName.parse("nano")
NANO_TYPE = "Q8_0"


def is_nano(name: str | ModelName) -> bool:
    """Whether `name` means the shipped model: `nano` or `nano:latest`."""
    parsed = ModelName.parse(name) if isinstance(name, str) else name
    return parsed.key == NANO.key


def pull_nano(store: ModelStore, progress: Progress | None = None, checkpoint: Path | None = None) -> StoredModel:
    """Convert the shipped checkpoint to Q8_0 with its projector, and report as a pull does."""
    report = progress or (lambda status: None)
    if checkpoint is None:
        from interns1_local.nano import CHECKPOINT

        checkpoint = CHECKPOINT
    if not any(checkpoint.glob("*.safetensors")):
        raise NotFound(f"the shipped checkpoint is missing at {checkpoint}; install interns1-local again")
    report({"status": "pulling manifest"})

    def as_pull(status: Status) -> None:
        text = str(status["status"])
        if text.startswith("creating new layer"):
            text = "verifying sha256 digest"
        report({**status, "status": text})

    # Once in a store's life, and a server asks at each start whether a name is this model's.
    from interns1_local.store.create import ModelPlan, create

    licenses = tuple(path.read_text("utf-8") for path in [checkpoint / "LICENSE"] if path.is_file())
    return create(store, NANO, ModelPlan(folder=checkpoint, quantize=NANO_TYPE, licenses=licenses), as_pull)
