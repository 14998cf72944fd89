"""The statuses of a blob on its way, as Ollama writes them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from interns1_local.store.blobs import check_digest
from interns1_local.store.download import REPORT_SECONDS


def layer_report(report: Callable[[dict[str, Any]], None], verb: str, digest: str, size: int) -> Callable[[int], None]:
    """A function of the bytes that are there: a few statuses a second, and always the last."""
    last, digest = 0.0, check_digest(digest)
    status: dict[str, Any] = {"status": f"{verb} {digest[7:19]}", "digest": digest, "total": size}

    def step(completed: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_SECONDS or completed == size:
            last = now
            report({**status, "completed": completed} if completed else dict(status))

    return step
