"""A GGUF of the stock converter with the checkpoint's tokenizer files beside it is as good as one of ours."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from interns1_local.config import Settings
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest, InternS1Error, LoadError
from interns1_local.generation import abilities
from interns1_local.runners.model_spec import LoadOptions, ModelFacts, ModelSpec, read_model_facts
from interns1_local.runners.protocol import GenerateRequest
from interns1_local.runners.runner import Runner
from interns1_local.runners.text_codec import TextCodec
from interns1_local.store import sidecars
from interns1_local.store.create import ModelPlan, create, plan_from_modelfile
from interns1_local.store.manifest import SIDECAR
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.modelfile import parse
from interns1_local.store.name import ModelName
from quant.gguf_file import read_metadata
from quant.gguf_output import create as gguf_output
from tests.stock_files import stock_mmproj, stock_model
from tests.tiny import tiny_interns1
from tests.tokenizer.sentencepiece_proto import model_proto

NEW = ModelName.parse("new")
TEXTS = (
    "hello <SMILES>CCO</SMILES> world",
    "<IUPAC>ethanol</IUPAC>",
    "C1=CC=C(C=C1)C=O and <FASTA>MKV</FASTA>",
    "<img>",
    "a<|fim_prefix|>b<tool_call></tool_call>",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_interns1(tmp_path_factory.mktemp("checkpoint") / "tiny")
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"num_frames": 24}))
    (folder / "processing_interns1.py").write_text('text = f"Frame-{i + 1}: {image}"')
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("ours")
    paths = folder / "model.gguf", folder / "mmproj.gguf"
    convert(checkpoint, paths[0], type="F32", mmproj=paths[1], mmproj_type="F32", jobs=1)
    return paths


@pytest.fixture
def published(ours: tuple[Path, Path], checkpoint: Path, tmp_path: Path) -> Path:
    """A folder as a user has it: the stock converter's two files, and the small files of the checkpoint."""
    folder = tmp_path / "published"
    folder.mkdir()
    stock_model(ours[0], folder / "model.gguf")
    stock_mmproj(ours[1], folder / "mmproj.gguf")
    for path in checkpoint.iterdir():
        if path.name in sidecars.SIDECARS:
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def made(store: ModelStore, plan: ModelPlan) -> tuple[StoredModel, list[str]]:
    seen: list[dict[str, Any]] = []
    model = create(store, NEW, plan, seen.append)
    return model, [status["status"] for status in seen]


def of_folder(folder: Path) -> ModelPlan:
    return ModelPlan(files={path.name: path for path in folder.iterdir()})


def by_modelfile(folder: Path) -> ModelPlan:
    return plan_from_modelfile(ModelStore(folder), parse("FROM model.gguf\nFROM mmproj.gguf"), folder)


@pytest.mark.parametrize("plan", [of_folder, by_modelfile, lambda folder: ModelPlan(folder=folder)])
def test_all_that_our_converter_knows(
    store: ModelStore, published: Path, ours: tuple[Path, Path], plan: Callable[[Path], ModelPlan]
) -> None:
    model, texts = made(store, plan(published))
    assert any("found added_tokens.json" in text and "tokenizer_SMILES.model" in text for text in texts)
    assert not any("warning" in text for text in texts)
    facts, expected = abilities(model).facts, read_model_facts(*ours)
    for name in ("chat_template", "sampling_defaults", "vision", "capabilities", "warnings", "eos_token"):
        assert getattr(facts, name) == getattr(expected, name), name
    for key, value in expected.metadata.items():
        if key == "tokenizer.ggml.token_type":
            continue  # the converters' views of what a control token is; the added tokens say it
        assert np.array_equal(facts.metadata[key], value), key
    assert facts.vision is not None and (facts.vision.num_frames, facts.vision.frame_prefix) == (24, "Frame-{i}: ")
    assert model.sidecar_path is not None
    assert len(model.manifest.of_type(SIDECAR)) == 1


@pytest.mark.parametrize("fillers", [False, True])
def test_every_token_and_every_mark(store: ModelStore, published: Path, ours: tuple[Path, Path], fillers: bool) -> None:
    """Also of a converter that gives the pieces names, or takes other tokens for control tokens."""
    stock_model(ours[0], published / "model.gguf", fillers=fillers)
    model, _ = made(store, of_folder(published))
    mine, theirs = codec(abilities(model).facts), codec(read_model_facts(*ours))
    assert [mine.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    for hidden in (False, True):
        assert [mine.token_bytes(id, hidden) for id in range(600)] == [
            theirs.token_bytes(id, hidden) for id in range(600)
        ]
    assert mine.mark_ids == theirs.mark_ids


def codec(facts: ModelFacts) -> TextCodec:
    return TextCodec(facts.metadata, lambda text, special=False: [3] * len(text))


def answers(spec: ModelSpec) -> list[Any]:
    async def main() -> list[Any]:
        runner = await Runner.start(spec, Settings(threads=1, load_timeout=60.0))
        try:
            tokens = [await runner.tokenize(text) for text in TEXTS]
            pixels = np.random.default_rng(1).integers(0, 256, (2, 56, 56, 3), np.uint8)
            request = GenerateRequest(
                ["Look: ", pixels, TEXTS[0]], SamplingParams(temperature=0, ignore_eos=True, logprobs=1), 24
            )
            chunks = [chunk async for chunks in runner.generate(request) for chunk in chunks]
            ids = [token for chunk in chunks for token in chunk.ids]
            scores = [entry.logprob for chunk in chunks for entry in chunk.logprobs or []]
            return [tokens, ids, b"".join(chunk.data for chunk in chunks), scores, await runner.detokenize(range(600))]
        finally:
            await runner.close()

    return asyncio.run(main())


def same(left: list[Any], right: list[Any]) -> bool:
    """Scores within rounding: how a prompt is cut into steps depends on the clock."""
    return left[:3] + left[4:] == right[:3] + right[4:] and left[3] == pytest.approx(right[3], abs=1e-2)


def spec_of(model: StoredModel) -> ModelSpec:
    return ModelSpec("m", "d", model.model_path, model.mmproj_path, LoadOptions(num_ctx=512), model.sidecar_path)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Whether plans are logged too depends on what was configured before."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_ids_and_texts_are_those_of_our_own_file(
    store: ModelStore, published: Path, ours: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = made(store, of_folder(published))
    expected = answers(ModelSpec("ours", "d", *ours, LoadOptions(num_ctx=512)))
    assert same(answers(spec_of(model)), expected)
    assert {token["domain"] for token in expected[0][0]} == {None, "smiles"}
    assert not warnings_in(caplog)
    # A vision file that another program stored in a shared folder: repaired when it is opened.
    unrepaired = ModelSpec("shared", "d", ours[0], published / "mmproj.gguf", LoadOptions(num_ctx=512))
    assert same(answers(unrepaired), expected)
    assert [text.partition(": ")[0] for text in warnings_in(caplog)] == ["shared"]


def test_without_the_files_it_runs_and_says_what_is_lost(
    store: ModelStore, published: Path, ours: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    plan = ModelPlan(files={name: published / name for name in ("model.gguf", "mmproj.gguf")})
    model, texts = made(store, plan)
    assert any(text.startswith("warning: the file has no science vocabularies") for text in texts)
    assert model.sidecar_path is None
    answer = answers(spec_of(model))
    assert {token["domain"] for token in answer[0][0]} == {None}
    said = warnings_in(caplog)
    assert len(said) == 1 and said[0].startswith("m: the file has no science vocabularies")


def test_a_copy_and_a_quantization_keep_them(store: ModelStore, published: Path) -> None:
    base, _ = made(store, of_folder(published))
    model = create(store, ModelName.parse("small"), ModelPlan(base=base, quantize="Q8_0", system="S"))
    assert model.sidecar_path == base.sidecar_path and model.model_path != base.model_path
    again = ModelPlan(files={str(p): p for p in (base.model_path, base.mmproj_path, base.sidecar_path) if p})
    assert create(store, ModelName.parse("again"), again).manifest.digests >= {base.manifest.layers[0].digest}
    assert store.resolve("again").sidecar_path == base.sidecar_path


def test_our_own_file_needs_none(store: ModelStore, published: Path, ours: tuple[Path, Path]) -> None:
    shutil.copy(ours[0], published / "model.gguf")
    (published / "chat_template.jinja").write_text("another")
    model, _ = made(store, of_folder(published))
    assert model.sidecar_path is None


def test_a_few_of_the_files(store: ModelStore, published: Path, ours: tuple[Path, Path]) -> None:
    """Vocabularies alone: the tags of the GGUF say where they belong."""
    names = ("model.gguf", *sidecars.VOCABULARIES)
    model, _ = made(store, ModelPlan(files={name: published / name for name in names}))
    facts, expected = abilities(model).facts, read_model_facts(*ours)
    mine, theirs = codec(facts), codec(expected)
    assert [mine.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert facts.chat_template is None and not facts.sampling_defaults
    template, _ = made(store, ModelPlan(files={n: published / n for n in ("model.gguf", "chat_template.jinja")}))
    assert abilities(template).facts.chat_template == expected.chat_template
    assert "interns1.tokenizer.added_tokens" not in abilities(template).facts.metadata


def rewrite_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def vocabulary(n_pieces: int) -> bytes:
    """A SentencePiece model with so many pieces."""
    return model_proto([chr(0x4E00 + i) for i in range(n_pieces - 3)])


def moved(tokens: dict[str, int]) -> dict[str, int]:
    return {content: id + 1 for content, id in tokens.items()}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_SMILES.model", b"", "SentencePiece|outside|belong"),
        ("tokenizer_SMILES.model", b"\xff\x00junk" * 50, "not a SentencePiece model"),
        ("tokenizer_SMILES.model", vocabulary(9), r"has 9 pieces; the GGUF has 21 places .* another model"),
        ("tokenizer_IUPAC.model", vocabulary(56), "but id .* is the token"),
        ("added_tokens.json", b"[1, 2]", "not a JSON object"),
        ("added_tokens.json", b'{"<SMILES>": "x"}', "cannot be understood"),
        ("added_tokens.json", moved, "has id"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"5": 7}}', "cannot be understood"),
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("generation_config.json", b'{"temperature": "hot"}', "a number was expected"),
        ("generation_config.json", b'{"temperature": NaN}', "a number was expected"),
        ("generation_config.json", b'{"top_k": 1e999}', "a number was expected"),
        ("generation_config.json", b'{"top_k": %s}' % (b"9" * 400), "a number was expected"),
        ("generation_config.json", b"[" * 200_000, "nested too deeply"),
        ("preprocessor_config.json", b'{"a": ' * 200_000, "nested too deeply"),
        ("video_preprocessor_config.json", b"7", "not a JSON object"),
        ("processing_interns1.py", b"\xff", "not UTF-8"),
        ("preprocessor_config.json", b'{"max_patches": -1}', "a count from 1"),
        ("preprocessor_config.json", b"{]", "not valid JSON"),
        ("chat_template.jinja", b"\xff\xfe", "not UTF-8"),
        ("chat_template.jinja", b"x" * (sidecars.MAX_SIDECAR + 1), "at most"),
    ],
)
def test_files_that_are_damaged_or_of_another_model(
    store: ModelStore, published: Path, name: str, content: Any, message: str
) -> None:
    path = published / name
    if name == "added_tokens.json" and callable(content):
        (published / "tokenizer_config.json").unlink()
        rewrite_json(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(BadRequest, match=message):
        made(store, of_folder(published))
    assert store.names() == []
    assert [path for path in store.root.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []


def test_a_model_file_that_cannot_be_taken(store: ModelStore, published: Path) -> None:
    """The other files are whole and were stored first; what was there before stays."""
    uploaded = store.blobs.path(store.blobs.add_file(published / "mmproj.gguf")[0])
    before = {path: path.read_bytes() for path in store.blobs.folder.iterdir()}
    plan = ModelPlan(files={**of_folder(published).files, "mmproj.gguf": uploaded}, quantize="Q3_X")
    with pytest.raises(InternS1Error, match="quantization type Q3_X"):
        made(store, plan)
    assert {path: path.read_bytes() for path in store.blobs.folder.iterdir()} == before


def test_no_content_of_a_file_is_more_than_an_error(published: Path, tmp_path: Path) -> None:
    """Bytes changed, cut and doubled at random: a sidecar, or a message; never anything else."""
    random = np.random.default_rng(0)
    whole = {path.name: path.read_bytes() for path in published.iterdir() if path.name in sidecars.SIDECARS}
    refused = 0
    for round in range(150):
        name = sorted(whole)[round % len(whole)]
        data = bytearray(whole[name])
        for place in random.integers(0, len(data), random.integers(1, 6)):
            data[place] = random.integers(256)
        start, end = sorted(random.integers(0, len(data), 2))
        data[start:end] = data[start:end] * random.integers(0, 3)
        (published / name).write_bytes(data)
        try:
            sidecars.vision_keys(published)
            sidecars.write_sidecar(published, published / "model.gguf", tmp_path / f"{round}.gguf")
        except BadRequest:
            refused += 1
        (published / name).write_bytes(whole[name])
    assert 30 < refused < 150


def test_names_never_lead_out(store: ModelStore, published: Path) -> None:
    files = {"model.gguf": published / "model.gguf", "../../x/chat_template.jinja": published / "chat_template.jinja"}
    model, _ = made(store, ModelPlan(files=files))
    assert abilities(model).facts.chat_template
    two = {**files, "other/chat_template.jinja": published / "added_tokens.json"}
    with pytest.raises(BadRequest, match=r"two files called chat_template\.jinja"):
        made(store, ModelPlan(files=two))


def test_a_hostile_layer_brings_only_its_own_keys(ours: tuple[Path, Path], tmp_path: Path) -> None:
    fields = {
        "general.architecture": "llama", "qwen3moe.context_length": 1, "tokenizer.ggml.tokens": ["a"],
        "tokenizer.chat_template": "mine", "interns1.tokenizer.domains": ["smiles"], "interns1.reward.x": 1,
    }  # fmt: skip
    with gguf_output(tmp_path / "layer.gguf", fields, []):
        pass
    facts, before = read_model_facts(*ours, tmp_path / "layer.gguf"), read_model_facts(*ours)
    assert (facts.architecture, facts.context_length) == (before.architecture, before.context_length)
    assert facts.chat_template == "mine" and "interns1.reward.x" not in facts.metadata
    assert facts.metadata["tokenizer.ggml.tokens"] == before.metadata["tokenizer.ggml.tokens"]
    (tmp_path / "junk.gguf").write_bytes(b"junk" * 20)
    with pytest.raises(LoadError, match="junk"):
        read_model_facts(*ours, tmp_path / "junk.gguf")


def test_a_sidecar_reads_as_a_gguf_without_tensors(store: ModelStore, published: Path) -> None:
    model, _ = made(store, of_folder(published))
    assert model.sidecar_path is not None
    metadata = read_metadata(model.sidecar_path)
    assert metadata.tensors == [] and metadata.fields["general.type"] == "sidecar"
