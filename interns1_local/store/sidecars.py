"""Files beside a GGUF that hold what its converter left out: science vocabularies, added tokens, template, settings.

They are stored with a model as one layer: a GGUF file without tensors that holds the keys which our own converter
would have written into the model file. Readers lay these keys over the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest

VOCABULARIES = ("tokenizer_SMILES.model", "tokenizer_IUPAC.model", "tokenizer_FASTA.model")
SIDECARS = (
    *VOCABULARIES, "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "video_preprocessor_config.json", "processing_interns1.py",
    "generation_config.json",
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
    if not all(tag in tokens for tag in _OPENING_TAGS):
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


def vision_keys(folder: Path) -> dict[str, Any]:
    """What the files in `folder` say about tiles and films, as keys of a vision file.

    Raises:
        BadRequest: a file is damaged.
    """
    from convert.sidecars import vision_fields

    with _understood():
        return vision_fields(folder, MAX_SIDECAR)


def write_sidecar(folder: Path, model: Path, output: Path) -> bool:
    """Write what the sidecar files in `folder` add to the GGUF file `model`; False when they add nothing.

    Raises:
        BadRequest: a file is damaged, or does not belong to the model.
    """
    from convert.sidecars import sidecar_fields
    from quant.gguf_file import read_metadata
    from quant.gguf_output import create

    with _understood():
        fields = sidecar_fields(folder, read_metadata(model).fields, MAX_SIDECAR)
        if not fields:
            return False
        about = {"general.architecture": SIDECAR_ARCHITECTURE, "general.type": "sidecar"}
        with create(output, {**about, **known_keys(fields)}, []):
            pass
    return True


@contextmanager
def _understood() -> Iterator[None]:
    from convert.errors import ConvertError
    from quant.errors import QuantError

    try:
        yield
    except (ConvertError, QuantError) as error:
        raise BadRequest(str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise BadRequest(f"the files beside the GGUF cannot be understood: {error!r}") from error
