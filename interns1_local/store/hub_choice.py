"""Which files of a repository make the model that a name asks for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from interns1_local.errors import BadRequest, NotFound
from interns1_local.store.hub import HubFile
from interns1_local.store.name import DEFAULT_TAG

# What a name without a tag means, the best that the repository has; then anything.
PREFERRED = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "IQ4_XS", "Q4_0", "Q6_K", "Q8_0", "BF16", "F16", "F32")
PREFERRED_MMPROJ = ("F16", "BF16", "Q8_0", "F32")

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_QUANT = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q\d(?:_(?:K|[01]))?(?:_(?:XXS|XS|NL|XL|S|M|L))?|TQ\d_0|MXFP4(?:_MOE)?|BF16|FP?16|FP?32))(?![A-Z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The parts of one model in order, its vision file, or, when there is no GGUF, that it is to be converted."""

    model: tuple[HubFile, ...] = ()
    mmproj: HubFile | None = None
    converts: bool = False


def choose(files: Sequence[HubFile], tag: str) -> Choice:
    """Pick by `tag`: a quantization (Q4_K_M), a file's name, or latest."""
    ggufs = [file for file in files if file.path.lower().endswith(".gguf")]
    mmprojs = [file for file in ggufs if "mmproj" in _name(file.path).lower()]
    others = [file for file in ggufs if file not in mmprojs and "imatrix" not in _name(file.path).lower()]
    if not others:
        if any(file.path.endswith(".safetensors") for file in files):
            return Choice(converts=True)
        raise NotFound("the repository holds neither GGUF nor safetensors files")
    models = _complete(others)
    chosen = models[_pick(list(models), tag, PREFERRED)]
    mmproj = None
    if mmprojs:
        by_path = {file.path: file for file in mmprojs}
        wanted = quant_of(chosen[0].path)
        same = [path for path in by_path if quant_of(path) == wanted]
        mmproj = by_path[same[0] if same else _pick(list(by_path), DEFAULT_TAG, PREFERRED_MMPROJ)]
    return Choice(tuple(chosen), mmproj)


def quant_of(path: str) -> str:
    """The quantization that a file's name states, in capitals; empty when it states none."""
    found = _QUANT.findall(_name(path).upper()) or _QUANT.findall(path.upper())
    quant = str(found[-1]) if found else ""
    return {"FP16": "F16", "FP32": "F32"}.get(quant, quant)


def _complete(files: Sequence[HubFile]) -> dict[str, list[HubFile]]:
    """Each model under its name, its shards in order. A model that lacks one is an error when it is chosen."""
    groups: dict[str, dict[int, HubFile]] = defaultdict(dict)
    counts: dict[str, int] = {}
    for file in files:
        shard = _SHARD.fullmatch(file.path)
        key = f"{shard[1]}.gguf" if shard else file.path
        groups[key][int(shard[2]) if shard else 1] = file
        counts[key] = int(shard[3]) if shard else 1
    whole = {
        key: [parts[index] for index in sorted(parts)]
        for key, parts in groups.items()
        if sorted(parts) == list(range(1, counts[key] + 1))
    }
    if not whole:
        raise NotFound("the repository's GGUF files are shards of which some are missing")
    return whole


def _pick(paths: Sequence[str], tag: str, preferred: Sequence[str]) -> str:
    by_quant: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths, key=lambda path: (path.count("/"), len(path), path)):
        by_quant[quant_of(path)].append(path)
    if tag.lower() == DEFAULT_TAG:
        order = [*preferred, *sorted(by_quant)]
        return next(by_quant[quant][0] for quant in order if quant in by_quant)
    if tag.upper() in by_quant:
        return by_quant[tag.upper()][0]
    wanted = tag.lower().removesuffix(".gguf")
    named = [path for path in paths if _name(path).lower().removesuffix(".gguf") == wanted]
    if named:
        return named[0]
    known = ", ".join(sorted(quant or _name(path) for quant, found in by_quant.items() for path in found[:1]))
    raise BadRequest(f"the repository has no {tag}; it has {known}")


def _name(path: str) -> str:
    return path.rpartition("/")[2]
