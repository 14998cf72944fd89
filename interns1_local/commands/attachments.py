"""Pictures that come with a prompt: paths typed or dropped into the text, and `--image PATH`."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from interns1_local.errors import MediaError

MAX_BYTES = 100 * 1024 * 1024

_PATH = re.compile(r"(?:[a-zA-Z]:|~|\.{1,2})?[/\\][\S\\ ]+?\.(?i:jpe?g|png|webp)\b")
# What a terminal puts a backslash before when a file is dropped on it.
_ESCAPED = re.compile(r"\\([ ()\[\]{}$&;'\"|*?~`\\])")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def take_images(prompt: str) -> tuple[str, list[Path]]:
    """The prompt without the paths of pictures that exist, and these paths. Other paths stay text."""
    paths: list[Path] = []
    position = 0
    while found := _PATH.search(prompt, position):
        path = Path(_ESCAPED.sub(r"\1", found.group(0))).expanduser()
        if not path.is_file():
            # `/tmp and ./cat.png` is one match of the pattern: a path may begin later in it.
            position = found.start() + 1
            continue
        paths.append(path)
        before, after = prompt[: found.start()], prompt[found.end() :]
        if before[-1:] in ("'", '"') and after[:1] == before[-1:]:
            before, after = before[:-1], after[1:]
        position = len(before)
        prompt = before + after
    return (re.sub(r"[ \t]{2,}", " ", prompt).strip() if paths else prompt), paths


def encode_image(path: Path) -> str:
    """The file in base64, if it is a picture that the server can read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"cannot read the picture {path}: {(error.strerror or str(error)).lower()}") from None
    if len(data) > MAX_BYTES:
        raise MediaError(f"the picture {path} is larger than 100 MB")
    if not (data.startswith(_SIGNATURES) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise MediaError(f"{path} is not a PNG, JPEG or WebP picture")
    return base64.b64encode(data).decode("ascii")
