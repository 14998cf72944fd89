"""What llama.cpp computes from our files against the Hugging Face reference in torch: logits and image embeddings."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from tests.convert.llama_cpp import Llama
from tests.tiny import tiny_gguf, tiny_interns1, tiny_qwen3, vision_tensors

PROMPT = [1, 200, 33, 260, 270, 305, 90, 90, 12, 280, 303, 7]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def torch_logits(folder: Path, ids: list[int]) -> np.ndarray:
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("moe", [True, False])
def test_text_logits_equal_transformers(moe: bool, tmp_path: Path) -> None:
    folder = tiny_qwen3(tmp_path / "reference", moe=moe)
    checkpoint = tiny_interns1(tmp_path / "checkpoint", moe=moe, vision=False)
    convert(checkpoint, tmp_path / "model.gguf", type="F32", jobs=1)
    convert(folder, tmp_path / "plain.gguf", type="F32", jobs=1)
    reference = torch_logits(folder, PROMPT)
    with Llama(tmp_path / "model.gguf") as llama:
        ours = llama.logits(PROMPT)
    assert cosine(ours, reference).min() > 0.9999
    assert np.array_equal(ours.argmax(-1), reference.argmax(-1))
    with Llama(tmp_path / "plain.gguf") as llama:
        assert np.array_equal(llama.logits(PROMPT), ours)


@pytest.mark.parametrize("type", ["BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"])
def test_llama_cpp_loads_every_type(type: str, tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False)
    convert(folder, tmp_path / "f32.gguf", type="F32", jobs=1)
    convert(folder, tmp_path / "model.gguf", type=type, jobs=1)
    with Llama(tmp_path / "f32.gguf") as exact, Llama(tmp_path / "model.gguf") as llama:
        # Random weights forgive little, so this only tells a right layout from a wrong one.
        assert cosine(llama.logits(PROMPT), exact.logits(PROMPT)).mean() > 0.9


def test_llama_cpp_tokenizes_as_the_checkpoint_says(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False)
    convert(folder, tmp_path / "model.gguf", jobs=1)
    vocab = json.loads((folder / "vocab.json").read_text())
    with Llama(tmp_path / "model.gguf") as llama:
        api, out = llama.api, (llama.api.llama_token * 16)()
        text = b"hello world12"
        n = api.llama_tokenize(api.llama_model_get_vocab(llama.model), text, len(text), out, 16, True, False)
        assert list(out[:n]) == [vocab["hello"], vocab["Ġworld"], vocab["1"], vocab["2"]]


# --- vision ---


def mtmd_embedding(model: Any, mmproj: Path, tile: np.ndarray) -> np.ndarray:
    from llama_cpp import mtmd_cpp as mtmd

    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.warmup, params.print_timings = False, 1, False, False
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), model, params)
    assert context
    pixels = (ctypes.c_uint8 * tile.size).from_buffer_copy(tile.tobytes())
    bitmap = mtmd.mtmd_bitmap_init(tile.shape[1], tile.shape[0], pixels)
    marker = mtmd.mtmd_default_marker()
    text = mtmd.mtmd_input_text(text=marker, add_special=False, parse_special=True)
    if hasattr(text, "text_len"):
        text.text_len = len(marker)
    chunks = mtmd.mtmd_input_chunks_init()
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0
    found = []
    for i in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, i)
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            assert mtmd.mtmd_encode_chunk(context, chunk) == 0
            n_tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            found.append(np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), (n_tokens, 256)).copy())
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(context)
    return np.concatenate(found)


def torch_embedding(weights: dict[str, np.ndarray], config: dict[str, Any], tile: np.ndarray) -> np.ndarray:
    """The tower is transformers' InternVL, which has Intern-S1-mini's form; the projector follows its formula."""
    import torch
    from transformers.models.internvl import InternVLVisionConfig
    from transformers.models.internvl.modeling_internvl import InternVLVisionModel

    settings = InternVLVisionConfig(**config)
    settings._attn_implementation = "eager"
    torch.set_num_threads(1)
    tower = InternVLVisionModel(settings).eval()
    state = {n.removeprefix("model.vision_tower."): torch.tensor(v) for n, v in weights.items() if "vision_tower" in n}
    assert not tower.load_state_dict(state, strict=False).missing_keys
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.tensor(((tile / 255 - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
    projector = {n.rpartition("projector.")[2]: torch.tensor(v) for n, v in weights.items() if "projector" in n}
    with torch.no_grad():
        x = tower(pixel_values=pixels).last_hidden_state[:, 1:]
        side = round(x.shape[1] ** 0.5)
        x = x.view(1, side, side // 2, -1).permute(0, 2, 1, 3).contiguous()
        x = x.view(1, side // 2, side // 2, -1).permute(0, 2, 1, 3).reshape((side // 2) ** 2, -1)
        functional = torch.nn.functional
        x = functional.layer_norm(x, x.shape[-1:], projector["layer_norm.weight"], projector["layer_norm.bias"])
        x = functional.gelu(functional.linear(x, projector["linear_1.weight"], projector["linear_1.bias"]))
        return functional.linear(x, projector["linear_2.weight"], projector["linear_2.bias"]).numpy()


@pytest.mark.parametrize(("type", "least"), [("F32", 0.9999), ("F16", 0.9999), ("BF16", 0.999), ("Q8_0", 0.999)])
def test_image_embeddings_equal_the_reference(type: str, least: float, tmp_path: Path) -> None:
    model, mmproj = tiny_gguf(tmp_path, type="Q8_0", mmproj_type=type, dtype="F32", image_size=112)
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["vision_config"]
    tile = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    reference = torch_embedding(vision_tensors(112, 1), config, tile)
    with Llama(model) as llama:
        ours = mtmd_embedding(llama.model, mmproj, tile)
    assert ours.shape == reference.shape == (16, 256)
    assert cosine(ours, reference).min() > least
