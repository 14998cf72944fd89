"""Where a full context is cut when a request asked for that: the older half goes of what follows the kept beginning."""

from __future__ import annotations

from interns1_local.engine.sequence import Sequence


def cut_range(sequence: Sequence) -> tuple[int, int] | None:
    """Places [start, stop) to leave out; None when the request did not ask for it, or nothing can go.

    At least the last place stays, which is not computed yet. A tile stays or goes as a whole: the kept beginning grows
    to its end, and so does what is left out.
    """
    if sequence.keep is None:
        return None
    start = sequence.n_prompt if sequence.keep < 0 else sequence.keep
    start = _outside(sequence, min(start, len(sequence.keys)))
    stop = _outside(sequence, start + max(1, (len(sequence.keys) - start) // 2))
    return (start, stop) if stop < len(sequence.keys) else None


def _outside(sequence: Sequence, place: int) -> int:
    tile = sequence.tile_at(place)
    return place if tile is None or tile.start == place else tile.stop
