"""A GGUF in parts (-00001-of-0000N) joined to the single file that a store's model is."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store.blobs import PARTIAL_SUFFIX, BlobStore


def join_shards(blobs: BlobStore, parts: Mapping[str, Path], report: Callable[[dict[str, Any]], None]) -> Path:
    """The joined file as a blob. `parts` are the files by their names, which say their order."""
    from quant.errors import QuantError
    from quant.requantize import COPY, requantize

    with tempfile.TemporaryDirectory(dir=blobs.folder, prefix="interns1-", suffix=PARTIAL_SUFFIX) as folder:
        linked = []
        for name, path in parts.items():
            link = Path(folder) / Path(name).name
            try:
                os.link(path, link)
            except OSError:
                link.symlink_to(path)
            linked.append(link)
        joined = Path(folder) / "joined" / "model.gguf"

        def progress(step: Any) -> None:
            report({"status": "joining parts", "total": int(step.bytes_total), "completed": int(step.bytes_done)})

        try:
            requantize(min(linked), joined, COPY, progress=progress)
        except QuantError as error:
            raise BadRequest(str(error)) from error
        digest, _ = blobs.adopt(joined)
    return blobs.path(digest)
