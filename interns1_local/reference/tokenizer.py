"""The dynamic tokenizer written straight from its description, slow and plain: the oracle for the fast one.

Source of the algorithm: the behaviour of Intern-S1's Hugging Face tokenizer (normalise, split at added tokens,
find molecules and proteins, switch vocabularies inside tags).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from interns1_local.errors import LoadError
from interns1_local.reference.added_tokens import AddedTokens
from interns1_local.reference.folder import added_tokens, read_json, special_ids

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOMAINS = ("SMILES", "IUPAC", "FASTA")
TAG_DOMAIN = {"<SMILES>": "SMILES", "<SELFIES>": "SMILES", "<IUPAC>": "IUPAC", "<FASTA>": "FASTA"}
CLOSERS = {"</SMILES>", "</SELFIES>", "</IUPAC>", "</FASTA>"}
PROTECT = ("<MOLFORMULA>", "</MOLFORMULA>")
AUTO = {"<SMILES_AUTO_DETECT>": "SMILES", "<FASTA_AUTO_DETECT>": "FASTA"}
AUTO_CLOSERS = {"</SMILES_AUTO_DETECT>", "</FASTA_AUTO_DETECT>"}

_TWO = (
    "Ac Ag Al Am Ar As At Au Ba Be Bh Bi Bk Br Ca Cd Ce Cf Cl Cm Cn Co Cr Cs Cu Db Ds Dy Er Es Eu Fe Fl Fm Fr Ga Gd "
    "Ge He Hf Hg Ho Hs In Ir Kr La Li Lr Lu Lv Mc Md Mg Mn Mo Mt Na Nb Nd Ne Nh Ni No Np Og Os Pa Pb Pd Pm Po Pr Pt "
    "Pu Ra Rb Re Rf Rg Rh Rn Ru Sb Sc Se Sg Si Sm Sn Sr Ta Tb Tc Te Th Ti Tl Tm Ts Xe Yb Zn Zr"
).split()
_ONE = "B C F H I K N O P S U V W Y b c n o p s".split()
_UNIT = r"\[[^\]]+\]|" + "|".join(_TWO + _ONE) + r"|[\(\)\.=\-#@\d\$\%\*:\+\-\/\\]"
SMILES = re.compile(rf"((?![:.=])(?>{_UNIT}){{10,}}(?<![:.=]))")
FASTA = re.compile(r"([A-Z]{27,})")
BONDS = set("-=#:/\\.$")
ORGANIC = {"B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "s", "p"}


class ReferenceTokenizer:
    """Reads a checkpoint folder; `encode(text)` -> ids, `decode(ids)` -> text. Without `science`: Qwen3's own."""

    def __init__(self, folder: Path, *, science: bool = True, rdkit: bool | None = None) -> None:
        """`rdkit`: whether it judges molecules; None: if it is installed, as in Hugging Face."""
        self.vocab, merges = read_vocabulary(folder)
        self.bpe = Tokenizer(models.BPE(self.vocab, merges, fuse_unk=False))
        self.bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        self.bpe.decoder = decoders.ByteLevel()
        self.added = added_tokens(folder)
        self.special = special_ids(folder)
        self.domains: dict[str, tuple[Any, int]] = {}
        for name in DOMAINS if science else ():
            file = folder / f"tokenizer_{name}.model"
            if not file.is_file() or f"<{name}>" not in self.added:
                raise LoadError(f"{folder} has no {file.name} or no token <{name}>; Intern-S1's tokenizer needs both")
            sp = sentencepiece.SentencePieceProcessor(model_file=str(file))
            self.domains[name] = (sp, self.added[f"<{name}>"] - sp.get_piece_size())
        self.names = {i: t for t, i in self.vocab.items()} | {i: t for t, i in self.added.items()}
        self.protect = PROTECT if self.domains else ()
        self.split = AddedTokens(folder, self.protect).split
        self.is_molecule = molecule_in_rdkit() if (rdkit_is_wanted() if rdkit is None else rdkit) else looks_like_smiles
        self.encode_plain = lru_cache(maxsize=100_000)(self._encode_plain)

    # -- encoding

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        # SentencePiece's sign for a space means one in every text that the base vocabulary spells.
        return tuple(self.bpe.encode(text.replace("\u2581", " "), add_special_tokens=False).ids)

    def tokens(self, text: str) -> list[tuple[str, str | None]]:
        """Text pieces in order, each with its vocabulary (None for the base one); markers included."""
        parts: list[str] = []
        depth = 0
        for part in self.split(unicodedata.normalize("NFC", text)):
            if part in self.added or part in self.protect:
                parts.append(part)
                if part in TAG_DOMAIN or part == PROTECT[0]:
                    depth += 1
                elif part in CLOSERS or part == PROTECT[1]:
                    depth = max(0, depth - 1)
            elif depth or not self.domains:
                parts.append(part)
            else:
                smiles = split_candidates([part], SMILES, 10, False, self.is_molecule, "SMILES")
                parts += split_candidates(smiles, FASTA, 27, True, lambda text: True, "FASTA")
        return self._switch(parts)

    def _switch(self, parts: list[str]) -> list[tuple[str, str | None]]:
        stack: list[str] = []
        out: list[tuple[str, str | None]] = []
        for part in parts:
            if part in self.protect:
                # Always spelled out by the base vocabulary; its tokens' ids follow the open one, as below.
                out.append((part, f"protect:{stack[-1]}" if stack else None))
            elif self.domains and (part in TAG_DOMAIN or part in AUTO):
                out.append((part, "marker"))
                stack.append(TAG_DOMAIN.get(part) or AUTO[part])
            elif part in CLOSERS or part in AUTO_CLOSERS:
                out.append((part, "marker"))
                if stack:
                    stack.pop()
            elif part in self.added:
                out.append((part, "marker"))
            else:
                out.append((part, stack[-1] if stack else None))
        return out

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part, domain in self.tokens(text):
            if domain == "marker":
                if part in self.added:
                    ids.append(self.added[part])
            elif domain is None:
                ids += self.encode_plain(part)
            elif domain.startswith("protect:"):
                ids += self._look_up(self.encode_plain(part), domain.removeprefix("protect:"))
            else:
                ids += self._encode_domain(part, domain)
        return ids

    def _look_up(self, tokens: tuple[int, ...], domain: str) -> list[int]:
        """Ids of base tokens by their text: the open vocabulary's piece where it has one, else the base id."""
        sp, offset = self.domains[domain]
        found = [(sp.piece_to_id(self.names[token]), token) for token in tokens]
        return [token if number == sp.unk_id() else number + offset for number, token in found]

    def _encode_domain(self, text: str, domain: str) -> list[int]:
        sp, offset = self.domains[domain]
        ids: list[int] = []
        for piece, number in zip(sp.encode(text, out_type=str), sp.encode(text, out_type=int), strict=True):
            if number != sp.unk_id():
                ids.append(number + offset)
                continue
            ids += self._look_up(self.encode_plain(piece), domain)
        return ids

    # -- decoding

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        out = bytearray()
        byte_of = {c: b for b, c in byte_alphabet().items()}
        for token in ids:
            if skip_special and token in self.special:
                continue
            for sp, offset in self.domains.values():
                if offset <= token < offset + sp.get_piece_size():
                    out += sp.id_to_piece(token - offset).replace("\u2581", " ").encode()
                    break
            else:
                name = self.names.get(token, "")
                out += name.encode() if name in self.added else bytes(byte_of[c] for c in name)
        return out.decode("utf-8", errors="replace")


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    hidden = (b for b in range(256) if b not in table)
    return table | {b: chr(256 + n) for n, b in enumerate(hidden)}


def read_vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Base tokens and merges: from vocab.json and merges.txt, or from tokenizer.json where these are absent."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines: list[Any] = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        lines = [line for line in lines if line and not line.startswith("#version")]
        vocab = read_json(folder / "vocab.json")
    elif (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json")["model"]
        vocab, lines = model["vocab"], model["merges"]
    else:
        raise LoadError(f"{folder} has neither vocab.json and merges.txt nor tokenizer.json; download one of them")
    pairs = [line.split(" ") if isinstance(line, str) else line for line in lines]
    return vocab, [(str(left), str(right)) for left, right in pairs]


def split_candidates(
    parts: list[str],
    pattern: re.Pattern[str],
    shortest: int,
    truncation: bool,
    legitimate: Callable[[str], bool],
    name: str,
) -> list[str]:
    """Put automatic markers around every candidate that passes its checks."""
    out: list[str] = []
    for part in parts:
        start = 0
        for match in pattern.finditer(part):
            a, b = match.span()
            if b - a < shortest or not legitimate(match.group()):
                continue
            before, after = part[a - 1 : a], part[b : b + 1]
            if not truncation and (before.encode().isalpha() or after.encode().isalpha()):
                continue
            out += [part[start:a], f"<{name}_AUTO_DETECT>", match.group(), f"</{name}_AUTO_DETECT>"]
            start = b
        out.append(part[start:])
    return [part for part in out if part]


def rdkit_is_wanted() -> bool:
    """What Hugging Face would do here, unless the user asked for the rules."""
    return os.environ.get("INTERNS1_SMILES_DETECTION", "").strip().lower() != "rules" and find_spec("rdkit") is not None


def molecule_in_rdkit() -> Callable[[str], bool]:
    from rdkit import Chem, rdBase  # type: ignore[import-not-found, unused-ignore]

    rdBase.DisableLog("rdApp.*")
    return lambda text: sum(c.isascii() and c.isalpha() for c in text) >= 5 and Chem.MolFromSmiles(text) is not None


def looks_like_smiles(text: str) -> bool:
    """The rule check that stands in for RDKit."""
    return sum(c.isascii() and c.isalpha() for c in text) >= 5 and rings_and_brackets(text)


def rings_and_brackets(text: str) -> bool:
    if text[0] in BONDS or text[-1] in BONDS or any(a in BONDS and b in BONDS for a, b in pairwise(text)):
        return False
    open_rings: set[str] = set()
    counts = dict.fromkeys("()[]", 0)
    inside = False
    i = 0
    while i < len(text):
        c = text[i]
        if c in counts:
            counts[c] += 1
        if c == "[":
            if inside or i == len(text) - 1 or "]" not in text[i + 1 :]:
                return False
            span = text[i + 1 : text.find("]")]
            if re.search(r"(?:[A-GI-Z]|[a-z]){3,}", span) or re.search(r"\d{4,}", span):
                return False
            if len(re.findall(r"\d+", span)) > 2:
                return False
            inside = True
        elif c == "]":
            inside = False
        if counts["]"] > counts["["] or counts[")"] > counts["("]:
            return False
        step = 1
        if not inside and c not in "[]":
            if c == "%":
                number = text[i + 1 : i + 3]
                if len(number) == 2 and number.isdigit():
                    open_rings ^= {number}
                    step = 3
                else:
                    return False
            elif c.isdigit():
                if "%" not in text[max(0, i - 2) : i]:
                    open_rings ^= {c}
            elif text[i : i + 2] in ("Cl", "Br"):
                step = 2
            elif not (c in ORGANIC or c in BONDS or c in "();"):
                return False
        i += step
    if counts["["] != counts["]"] or open_rings:
        return False
    if not any(c.isupper() for c in text) and sum(c.isdigit() for c in text) < 2:
        return False
    return brackets_hold_atoms(text)


def brackets_hold_atoms(text: str) -> bool:
    for part in re.findall(r"\[([^\]]*)\]", text):
        if not part or "(" in part or ")" in part:
            return False
        if re.match(r"[A-Za-z]", part):
            return True
    return True
