"""Times of what a picture and a film go through: files to tiles, films to frames, tiles through the vision tower.

    python -m benchmarks.pictures [--tower nano|mini] [--threads N]

The tower is measured one tile a call, as the engine does it, and in llama.cpp's batches; `mini` is a tower of
Intern-S1-mini's size with random weights. Prints a table; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import av
import gguf
import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray
from PIL import Image

from convert.hf_to_gguf import convert
from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.media.image import TileSpec, load_image, tile_image
from interns1_local.media.video import Film, FrameChoice
from interns1_local.nano import CHECKPOINT

PICTURES = ((640, 480), (1920, 1080), (4032, 3024), (7680, 5760))
BATCHES = (1, 2, 4)
TILES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", choices=["nano", "mini"], default="mini")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_pictures()
        measure_films(Path(folder))
        measure_tower(Path(folder), chosen.tower, chosen.threads)


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The best of a few runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def measure_pictures() -> None:
    print("| picture | tiles | decode, s | cut, s |\n|---|---|---|---|")
    for width, height in PICTURES:
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        image = load_image(data)
        tiles = tile_image(image, TileSpec(448))
        decode, cut = seconds(lambda d=data: load_image(d)), seconds(lambda i=image: tile_image(i, TileSpec(448)))
        print(f"| JPEG {width}x{height} | {len(tiles)} | {decode:.2f} | {cut:.2f} |")


def measure_films(folder: Path) -> None:
    print("\n| film | frames taken | s | all frames decoded, s |\n|---|---|---|---|")
    for name, size, length, gop in (("1280x720, 1 min", (1280, 720), 60, 250), ("320x180, 2 h", (320, 180), 7200, 250)):
        path = folder / "film.mp4"
        write_film(path, size, length * 10, gop)
        taken = seconds(lambda p=path: Film(p, FrameChoice(16), 448, 600).frames(), 1)
        every = seconds(lambda p=path: decode_all(p), 1)
        print(f"| {name}, {length * 10} frames, keyframe every {gop} | 16 | {taken:.2f} | {every:.2f} |")


def write_film(path: Path, size: tuple[int, int], number: int, gop: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    still = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = gop
        for index in range(number):
            frame = av.VideoFrame.from_ndarray(np.roll(still, 4 * index, axis=1), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def decode_all(path: Path) -> None:
    with av.open(str(path)) as container:
        for _ in container.decode(video=0):
            pass


def measure_tower(folder: Path, tower: str, threads: int) -> None:
    model_path, mmproj = folder / "model.gguf", folder / "mmproj.gguf"
    convert(CHECKPOINT, model_path, type="F16", mmproj=mmproj, mmproj_type="F16")
    model = Model(model_path, ON_CPU)
    side = 112
    if tower == "mini":
        side = 448
        write_tower(mmproj, model.n_embd)
    encoder = VisionEncoder(mmproj, model, threads, use_gpu=False, cache_bytes=0)
    pixels = np.random.default_rng(2).integers(0, 256, (TILES, side, side, 3), dtype=np.uint8)
    count = encoder.n_tokens(side)

    encoder.encode(Tile.of(255 - pixels[0], count))  # what is slow the first time
    began = time.perf_counter()
    expected = np.stack([encoder.encode(Tile.of(tile, count)) for tile in pixels])
    single = (time.perf_counter() - began) / TILES
    print(f"\n{tower} tower, {threads} threads: {single:.3f} s a tile, one tile a call")
    print("| tiles a batch | s a tile | times as fast | largest difference |\n|---|---|---|---|")
    for size in BATCHES:
        began = time.perf_counter()
        found = batches(encoder, pixels, size, model.n_embd)
        taken = (time.perf_counter() - began) / TILES
        apart = float(np.abs(found - expected).max())
        print(f"| {size} | {taken:.3f} | {single / taken:.2f} | {apart:g} |")
    encoder.close()
    model.close()


def batches(encoder: VisionEncoder, pixels: NDArray[np.uint8], size: int, width: int) -> NDArray[np.float32]:
    """The embeddings of all tiles, `size` tiles in each of llama.cpp's batches."""
    rows = [group_rows(encoder, pixels[at : at + size], width) for at in range(0, len(pixels), size)]
    return np.concatenate(rows)


def group_rows(encoder: VisionEncoder, pixels: Sequence[NDArray[np.uint8]], width: int) -> NDArray[np.float32]:
    with ExitStack() as stack:
        chunks = [stack.enter_context(encoder._image_chunk(tile)) for tile in pixels]
        batch = mtmd_cpp.mtmd_batch_init(encoder._pointer)
        try:
            for chunk in chunks:
                if mtmd_cpp.mtmd_batch_add_chunk(batch, chunk) != 0:
                    raise SystemExit("llama.cpp takes no more tiles into a batch")
            if mtmd_cpp.mtmd_batch_encode(batch) != 0:
                raise SystemExit("llama.cpp could not encode a batch of tiles")
            rows = []
            for chunk in chunks:
                found = mtmd_cpp.mtmd_batch_get_output_embd(batch, chunk)
                shape = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)), width
                rows.append(np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), shape).copy())
            return np.stack(rows)
        finally:
            mtmd_cpp.mtmd_batch_free(batch)


def write_tower(path: Path, width: int) -> None:
    """A vision file of InternViT-300M's shape, with random weights, for a text model of `width`."""
    generator = np.random.default_rng(3)
    hidden, wide, layers = 1024, 4096, 24
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "internvl")
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": 448,
        "patch_size": 14,
        "embedding_length": hidden,
        "feed_forward_length": wide,
        "block_count": layers,
        "projection_dim": width,
        "attention.head_count": 16,
        "projector.scale_factor": 2,
        "preproc_min_tiles": 1,
        "preproc_max_tiles": 12,
    }
    for key, value in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.485, 0.456, 0.406])
    writer.add_array("clip.vision.image_std", [0.229, 0.224, 0.225])
    vectors: dict[str, tuple[int, ...]] = {"v.class_embd": (hidden,), "v.position_embd.weight": (1025, hidden)}
    vectors |= {"v.patch_embd.bias": (hidden,), "mm.model.mlp.0.weight": (wide,), "mm.model.mlp.0.bias": (wide,)}
    vectors |= {"mm.model.mlp.1.bias": (width,), "mm.model.mlp.3.bias": (width,)}
    matrices: dict[str, tuple[int, ...]] = {"v.patch_embd.weight": (hidden, 3, 14, 14)}
    matrices |= {"mm.model.mlp.1.weight": (width, wide), "mm.model.mlp.3.weight": (width, width)}
    for layer in range(layers):
        at = f"v.blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            matrices[f"{at}{name}.weight"], vectors[f"{at}{name}.bias"] = (hidden, hidden), (hidden,)
        matrices[f"{at}ffn_up.weight"], vectors[f"{at}ffn_up.bias"] = (wide, hidden), (wide,)
        matrices[f"{at}ffn_down.weight"], vectors[f"{at}ffn_down.bias"] = (hidden, wide), (hidden,)
        for name in ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ls1.weight", "ls2.weight"):
            vectors[at + name] = (hidden,)
    for name, shape in vectors.items():
        writer.add_tensor(name, (0.1 * generator.standard_normal(shape)).astype(np.float32))
    for name, shape in matrices.items():
        writer.add_tensor(name, (0.02 * generator.standard_normal(shape, np.float32)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
