"""The draft model that INTERNS1_DRAFT names, for models that have none of their own."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from interns1_local.config import Settings
from interns1_local.errors import InternS1Error
from interns1_local.runners.model_spec import ModelSpec
from interns1_local.store.draft import vocabulary_difference
from interns1_local.store.model_store import ModelStore

_log = logging.getLogger("interns1_local.runners")


def with_default_draft(spec: ModelSpec, settings: Settings) -> ModelSpec:
    """`spec` with the draft model of the settings, where that suits. Where it does not, a warning says why."""
    if not settings.draft or spec.draft_path is not None:
        return spec
    try:
        path = Path(settings.draft).expanduser()
        if not path.is_file():
            path = ModelStore(settings.models_dir).resolve(settings.draft).model_path
        if path.samefile(spec.model_path):
            return spec
        difference = vocabulary_difference(path, spec.model_path)
    except (InternS1Error, OSError) as error:
        difference = str(error)
    if difference is not None:
        _log.warning("%s goes without INTERNS1_DRAFT=%s: %s", spec.name, settings.draft, difference)
        return spec
    return replace(spec, draft_path=path)
