"""Files beside a GGUF that hold what its converter left out: science vocabularies, added tokens, template, settings.

They are stored with a model as one layer: a GGUF file without tensors that holds the keys which our own converter
would have written into the model file. Readers lay these keys over the model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest

VOCABULARIES = ("tokenizer_SMILES.model", "tokenizer_IUPAC.model", "tokenizer_FASTA.model")
PROCESSOR = "preprocessor_config.json"
SIDECARS = (
    *VOCABULARIES, "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json", PROCESSOR, "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
MAX_SIDECAR = 32 << 20

SIDECAR_ARCHITECTURE = "interns1-sidecar"
_KEYS = ("interns1.tokenizer.", "interns1.image.", "general.sampling.", "tokenizer.chat_template")
_OPENING_TAGS = ("<SMILES>", "<IUPAC>", "<FASTA>")


def known_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that a sidecar may bring; a stored one may come from anywhere."""
    return {key: value for key, value in fields.items() if key.startswith(_KEYS)}


def missing_science(fields: Mapping[str, Any]) -> str | None:
    """A sentence about the science vocabularies that a model was trained with and its files do not have, or None."""
    tokens = fields.get("tokenizer.ggml.tokens")
    if fields.get("interns1.tokenizer.domains") or not isinstance(tokens, Sequence):
        return None
    known = set(tokens)
    if not all(tag in known for tag in _OPENING_TAGS):
        return None
    return (
        "the file has no science vocabularies: molecules, names and sequences are read as ordinary text and written as "
        f"nothing; create the model again with {', '.join(VOCABULARIES)} of the checkpoint beside the GGUF file"
    )


def sidecars_in(folder: Path) -> dict[str, Path]:
    """The sidecar files of a folder, by name."""
    return {name: folder / name for name in SIDECARS if (folder / name).is_file()}


def sidecar_name(name: str) -> str | None:
    """The name by which `name`, which may be a path, is a sidecar; None for other files."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return last if last in SIDECARS else None


def take_sidecars(files: Mapping[str, Path]) -> tuple[dict[str, Path], list[Path]]:
    """The sidecars among `files`, by their plain names, and the other files."""
    sidecars: dict[str, Path] = {}
    others = []
    for given, path in files.items():
        name = sidecar_name(given)
        if name is None:
            others.append(path)
            continue
        if sidecars.setdefault(name, path) != path:
            raise BadRequest(f"there are two files called {name}; give one")
        size = path.stat().st_size
        if size > MAX_SIDECAR:
            raise BadRequest(f"{name} has {size} bytes; at most {MAX_SIDECAR} are read")
    return sidecars, others


def processor_settings(files: Mapping[str, Path]) -> dict[str, Any]:
    """The content of preprocessor_config.json; empty when there is none."""
    if PROCESSOR not in files:
        return {}
    try:
        settings = json.loads(files[PROCESSOR].read_bytes())
    except ValueError as error:
        raise BadRequest(f"{PROCESSOR} is not valid JSON: {error}") from None
    if not isinstance(settings, dict):
        raise BadRequest(f"{PROCESSOR} is not a JSON object")
    return settings


def write_sidecar(folder: Path, model: Path, output: Path) -> bool:
    """Write what the sidecar files in `folder` add to the GGUF file `model`; False when they add nothing.

    Raises:
        BadRequest: a file is damaged, or does not belong to the model.
    """
    from convert.errors import ConvertError
    from convert.sidecars import sidecar_fields
    from quant.errors import QuantError
    from quant.gguf_file import read_metadata
    from quant.gguf_output import create

    try:
        fields = sidecar_fields(folder, read_metadata(model).fields)
        if not fields:
            return False
        about = {"general.architecture": SIDECAR_ARCHITECTURE, "general.type": "sidecar"}
        with create(output, {**about, **known_keys(fields)}, []):
            pass
    except (ConvertError, QuantError) as error:
        raise BadRequest(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRequest(f"the tokenizer's files beside the GGUF cannot be understood: {error!r}") from error
    return True
