"""Whose turn it is, where sequences have different adapters. Pure: a rule, and what it has to remember.

A step computes for one adapter, so they take turns: next is the one that was served the longest ago. To change adapters
costs llama.cpp a new graph, a few milliseconds, so a turn has a few steps; a step with prompts, which is long, ends it.
"""

from __future__ import annotations

from interns1_local.engine.plan import Plan
from interns1_local.engine.sequence import Sequence

TURN_STEPS = 4


class AdapterTurns:
    """Sequences are given in order of arrival; those with the same `root` have the same adapter."""

    def __init__(self) -> None:
        self._root = b""
        self._steps_left = 0
        self._served: dict[bytes, int] = {}
        self._n_steps = 0
        self._tried: set[bytes] = set()

    def group(self, running: list[Sequence]) -> list[Sequence]:
        """Those that the next step is for. The same until `took` or `pass_on`, but for who comes and goes."""
        roots = dict.fromkeys(sequence.root for sequence in running)
        if roots and (self._root not in roots or (self._steps_left <= 0 and len(roots) > 1)):
            self._served = {root: self._served[root] for root in roots if root in self._served}
            self._begin(roots)
        return running if len(roots) < 2 else [s for s in running if s.root == self._root]

    def others_decode(self, running: list[Sequence]) -> bool:
        """Whether others wait for their next token."""
        return any(s.root != self._root and s.n_remaining == 1 for s in running)

    def pass_on(self, running: list[Sequence]) -> bool:
        """These can compute nothing now: let others try. False when all have tried since the last time."""
        self._tried.add(self._root)
        roots = dict.fromkeys(s.root for s in running if s.root not in self._tried)
        if not roots:
            self._tried.clear()
            return False
        self._begin(roots)
        return True

    def took(self, plan: Plan) -> None:
        """`plan` is the step that is taken."""
        self._tried.clear()
        if plan.computes:
            self._n_steps += 1
            self._served[self._root] = self._n_steps
            reads = plan.image is not None or any(s.stop - s.start > 1 + len(s.drafted) for s in plan.spans)
            self._steps_left = 0 if reads else self._steps_left - 1

    def _begin(self, roots: dict[bytes, None]) -> None:
        """The turn of the one of `roots` that was served the longest ago; of those that never were, the first."""
        self._root = min(roots, key=lambda root: self._served.get(root, -1))
        self._steps_left = TURN_STEPS
