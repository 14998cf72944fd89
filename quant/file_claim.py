"""A file held by one process while it is written, so that two runs cannot mix their bytes."""

from __future__ import annotations

import os
from pathlib import Path


def claim(descriptor: int, path: Path) -> bool:
    """Hold the open file against other processes until it is closed; False when one holds it, or has renamed it.

    Not available on Windows, where it is always true.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other run may have finished and given its file the final name since we opened it.
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
