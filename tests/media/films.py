"""Films for tests, made with PyAV, and what the Hugging Face library would take from them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# The unit of the peaks that the system reports.
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024


def frame(number: int, width: int = 64, height: int = 48) -> Pixels:
    """uint8 [height, width, 3]: every number has a colour, and a bar of its own width."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:] = (number * 4 % 256, 255 - number * 4 % 256, number * 37 % 256)
    pixels[:, : number % width + 1] ^= 255
    return pixels


def write_film(
    target: Path | io.BytesIO,
    frames: Iterable[Pixels],
    *,
    container: str = "mp4",
    codec: str = "mpeg4",
    rate: int = 10,
    gop: int = 12,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """Write `frames` as a film."""
    with av.open(target if isinstance(target, io.BytesIO) else str(target), "w", format=container) as output:
        stream: Any = None
        for pixels in frames:
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=options or {})
                stream.width, stream.height = pixels.shape[1], pixels.shape[0]
                stream.pix_fmt = pixel_format
                stream.codec_context.gop_size = gop
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))


def film(number: int = 60, **choices: Any) -> bytes:
    """A film of `number` frames in memory."""
    buffer = io.BytesIO()
    write_film(buffer, (frame(index) for index in range(number)), **choices)
    return buffer.getvalue()


def reference_frames(data: bytes, count: int) -> list[Image.Image]:
    """What transformers' PyAV reader takes: it decodes all frames and keeps those whose number is wanted."""
    with av.open(io.BytesIO(data)) as container:
        decoded = [one.to_ndarray(format="rgb24") for one in container.decode(video=0)]
    return [Image.fromarray(decoded[index]) for index in reference_indices(len(decoded), count)]


def reference_indices(total: int, count: int) -> list[int]:
    """The formula of transformers' InternVL video processor, with its own library."""
    import torch  # which takes seconds, and few of those that make a film need it

    return torch.arange(total / count / 2, total, total / count).int().tolist()
