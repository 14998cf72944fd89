"""Whether a candidate is a molecule: the reference asks RDKit where it is installed, and its own rules elsewhere.

RDKit answers ordinary molecules in microseconds, but its search for rings is exponential in the rings of one fused
system, in time and in memory: a hundred letters can take hours, or all memory. What it decides without that search is
decided here without it, and where the search could grow beyond bounds the rules decide.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, cast

from interns1_local.errors import BadRequest, LoadError
from interns1_local.tokenizer.smiles import accepts_by_rules, has_five_letters

SmilesDetection = Literal["rules", "rdkit"]
VARIABLE = "INTERNS1_SMILES_DETECTION"

# Where RDKit stops and the rules decide. In each of these directions the worst candidates that were found take a few
# milliseconds at the bound; ordinary molecules, insulin and vancomycin included, are far inside.
MAX_LETTERS = 10_000
MAX_FUSED_RINGS = 16
MAX_FUSED_ATOMS = 256
MAX_DUMMY_ATOMS = 8

# Whatever may stand for an aromatic atom or bond, once chlorine and bromine are taken out.
_AROMATIC = re.compile(r"[a-z:]")
# Hydrogen as an atom of its own: RDKit folds it into its neighbour first, which can change what it refuses later.
_HYDROGEN = re.compile(r"\[\d*H[^efgos]")
_REMEMBERED, _REMEMBERED_LETTERS = 1 << 13, 1 << 9


def choose_detection(environ: Mapping[str, str] = os.environ) -> SmilesDetection:
    """The reference's own choice, unless INTERNS1_SMILES_DETECTION names another: RDKit if it is installed.

    Token ids depend on it, as RDKit and the rules differ on some strings. With the same choice as on the machine where
    the reference runs, the ids are the same.
    """
    wanted = environ.get(VARIABLE, "").strip().lower()
    installed = find_spec("rdkit") is not None
    if not wanted:
        return "rdkit" if installed else "rules"
    if wanted not in ("rules", "rdkit"):
        raise BadRequest(f"{VARIABLE} must be rules or rdkit; it is {wanted!r}")
    return cast(SmilesDetection, wanted)


def molecule_test(detection: SmilesDetection) -> Callable[[str], bool]:
    """The test of a candidate."""
    if detection == "rules":
        return accepts_by_rules
    if find_spec("rdkit") is None:
        raise LoadError(f'{VARIABLE} asks for RDKit, which is not installed: pip install "interns1-local[science]"')
    accepts = RDKit().accepts
    remembered = lru_cache(_REMEMBERED)(accepts)
    return lambda candidate: (remembered if len(candidate) <= _REMEMBERED_LETTERS else accepts)(candidate)


class RDKit:
    """`accepts(candidate)` is `Chem.MolFromSmiles(candidate) is not None`, within bounds."""

    def __init__(self) -> None:
        from rdkit import Chem, rdBase  # type: ignore[import-not-found, unused-ignore]

        rdBase.DisableLog("rdApp.*")
        steps = Chem.SanitizeFlags
        self._chem: Any = Chem
        # The steps that can refuse a molecule. Others only describe it: conjugation, hybridization ...
        self._valences = steps.SANITIZE_CLEANUP | steps.SANITIZE_CLEANUP_ORGANOMETALLICS | steps.SANITIZE_PROPERTIES
        # Valences once more: RDKit looks at them again at the end, in the rings that it found aromatic itself.
        self._rings = (
            self._valences | steps.SANITIZE_SYMMRINGS | steps.SANITIZE_KEKULIZE | steps.SANITIZE_SETAROMATICITY
        )

    def accepts(self, candidate: str) -> bool:
        """Whether RDKit reads the candidate as a molecule; at least five letters, as the reference has it."""
        if not has_five_letters(candidate):
            return False
        if candidate.count("(") != candidate.count(")"):
            return False  # no parenthesis stands in a bracket atom that RDKit knows, so one is open
        if len(candidate) > MAX_LETTERS:
            return accepts_by_rules(candidate)
        try:
            return self._reads(candidate)
        except (RuntimeError, ValueError):  # a defect in RDKit, which must not refuse the whole text
            return accepts_by_rules(candidate)

    def _reads(self, candidate: str) -> bool:
        molecule = self._chem.MolFromSmiles(candidate, sanitize=False)
        if molecule is None or self._refuses(molecule, self._valences):
            return False
        hydrogen = _HYDROGEN.search(candidate) is not None
        if not hydrogen and not _AROMATIC.search(candidate.replace("Cl", "").replace("Br", "")):
            return True
        if candidate.count("*") + candidate.count("[#") > MAX_DUMMY_ATOMS or not can_search_rings(
            self._chem, molecule, candidate.count(".") + 1
        ):
            return accepts_by_rules(candidate)
        if hydrogen:
            return self._chem.MolFromSmiles(candidate) is not None
        return not self._refuses(molecule, self._rings)

    def _refuses(self, molecule: Any, steps: Any) -> bool:
        return bool(self._chem.SanitizeMol(molecule, sanitizeOps=int(steps), catchErrors=True))


def can_search_rings(chem: Any, molecule: Any, fragments: int) -> bool:
    """Whether RDKit's search for rings stays short in `molecule`, of `fragments` parts; `chem` is `rdkit.Chem`."""
    rings = molecule.GetNumBonds() - molecule.GetNumAtoms() + fragments
    if rings <= MAX_FUSED_RINGS and molecule.GetNumAtoms() <= MAX_FUSED_ATOMS:
        return True
    molecule = chem.Mol(molecule)
    chem.FastFindRings(molecule)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds() if bond.IsInRing()]
    return all(atoms <= MAX_FUSED_ATOMS and count - atoms < MAX_FUSED_RINGS for atoms, count in _fused_systems(bonds))


def _fused_systems(bonds: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(atoms, bonds) of every connected system of ring bonds. It has bonds - atoms + 1 rings."""
    root: dict[int, int] = {}

    def find(atom: int) -> int:
        while root.setdefault(atom, atom) != atom:
            root[atom] = atom = root[root[atom]]
        return atom

    for first, second in bonds:
        root[find(first)] = find(second)
    atoms = Counter(find(atom) for atom in list(root))
    counts = Counter(find(first) for first, _ in bonds)
    return [(atoms[system], counts[system]) for system in atoms]
