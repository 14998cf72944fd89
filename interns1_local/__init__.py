"""The faithful road for running the Intern-S1 and InternLM models on one's own machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interns1_local.api import Answer, AsyncInterns1, Interns1

__version__ = "0.1.0"
__all__ = ["Answer", "AsyncInterns1", "Interns1", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the command line and the converter need none of it.
    if name in ("Answer", "AsyncInterns1", "Interns1"):
        from interns1_local import api

        return getattr(api, name)
    raise AttributeError(f"module 'interns1_local' has no attribute {name!r}")
