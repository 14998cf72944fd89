"""`interns1 quality` on the shipped checkpoint in four types, and what it says to mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click.testing
import pytest

from convert.hf_to_gguf import convert
from interns1_local.commands.measuring_options import read_text
from interns1_local.commands.quality_run import find_models
from interns1_local.nano import CHECKPOINT
from tests.commands.conftest import Invoke
from tests.tiny import tiny_gguf, tiny_interns1

TYPES = ("F16", "Q8_0", "Q4_K_M", "Q2_K")
QUICK = ("--chunk", "64", "--chunks", "3", "--threads", "1")
TEXT = "".join(
    f"What is {a} + {b}? {a} + {b} = {a + b}. The molecule <SMILES>{'C' * (a % 5 + 1)}O</SMILES> is an alcohol.\n"
    for a in range(11, 31)
    for b in (7, 25)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nano-TYPE.gguf for each of TYPES, and text.txt."""
    folder = tmp_path_factory.mktemp("quality")
    for type_name in TYPES:
        convert(CHECKPOINT, folder / f"nano-{type_name}.gguf", type=type_name, jobs=1)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture
def quality(files: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`quality("nano-F16.gguf", "nano-Q8_0.gguf")` in the folder of the files, on text.txt."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("INTERNS1_THREADS", "1")

    def run(*args: str) -> click.testing.Result:
        data = () if "--data" in args else ("--data", "text.txt")
        return invoke("quality", *args, *data)

    return run


def test_smaller_types_are_farther_away(files: Path, quality: Invoke, tmp_path: Path) -> None:
    plot = tmp_path / "quality.svg"
    names = [f"nano-{type_name}.gguf" for type_name in TYPES]
    result = quality(*names, *QUICK, "--json", "--plot", str(plot))
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["base"]["model"] == names[0]
    assert value["base"]["perplexity"]["value"] > 1
    assert [model["model"] for model in value["models"]] == names[1:]
    assert [model["bytes"] for model in value["models"]] == [(files / name).stat().st_size for name in names[1:]]
    assert {model["scored_tokens"] for model in value["models"]} == {3 * 31}
    distances = [model["kl"]["mean"] for model in value["models"]]
    assert 0 < distances[0] < distances[1] < distances[2]
    for model in value["models"]:
        kl = model["kl"]
        assert kl["median"] <= kl["90"] <= kl["99"] <= kl["99_9"] <= kl["max"]
        assert 0 <= model["top1_agreement"]["value"] <= 1
    titles = [each.text or "" for each in ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}title")]
    assert all(any(title.startswith(f"{name}:") for title in titles) for name in names[1:])


def test_a_model_beside_itself(quality: Invoke) -> None:
    result = quality("nano-Q8_0.gguf", "nano-Q8_0.gguf", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    model = value["models"][0]
    assert (model["kl"]["mean"], model["kl"]["max"]) == (0, 0)
    assert model["top1_agreement"] == {"value": 1, "error": 0}
    assert model["perplexity"] == value["base"]["perplexity"]


def test_the_table(quality: Invoke) -> None:
    result = quality("nano-F16.gguf", "nano-Q2_K.gguf", *QUICK)
    assert result.exit_code == 0, result.output
    header, base, model, note = result.stdout.splitlines()
    assert header.split()[:3] == ["MODEL", "SIZE", "PERPLEXITY"]
    assert base.split()[0] == "nano-F16.gguf"
    assert model.split()[0] == "nano-Q2_K.gguf"
    assert note.startswith("93 tokens scored, the second halves of 3 chunks of 64;")
    assert "measuring" in result.stderr


def test_a_model_of_the_store(quality: Invoke, invoke: Invoke) -> None:
    """The shipped model is Q8_0 in the store: the same tensors as the converted file."""
    result = quality("nano-Q8_0.gguf", "nano", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["models"][0]["model"] == "nano"
    assert json.loads(result.stdout)["models"][0]["kl"]["mean"] == 0


def test_models_in_parts_count_whole(files: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    split = invoke("quantize", "nano-Q8_0.gguf", "parts.gguf", "COPY", "--split-max-size", "2M", "--force")
    assert split.exit_code == 0, split.output
    parts = sorted(files.glob("parts-*.gguf"))
    assert len(parts) > 1
    assert find_models([str(parts[0])])[0].n_bytes == sum(path.stat().st_size for path in parts)


def test_too_little_data(quality: Invoke, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("17 + 25 = 42")
    result = quality("nano-F16.gguf", "nano-Q8_0.gguf", "--data", str(short), "--data", str(short))
    assert result.exit_code == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("Error: The data has ")
    assert message.endswith(" tokens and one chunk needs 512; give more data or a smaller chunk.")


def test_models_that_read_differently(quality: Invoke, tmp_path: Path) -> None:
    other, _ = tiny_gguf(tmp_path / "other", moe=False)
    result = quality("nano-F16.gguf", str(other), *QUICK)
    assert result.exit_code == 1
    assert "a model can be compared only with a quantized version of itself" in result.stderr


def test_the_same_number_of_tokens_is_not_enough(tmp_path: Path, quality: Invoke) -> None:
    """Two vocabularies of one size, of which one lacks a merge."""
    paths = []
    for name in ("whole", "changed"):
        checkpoint = tiny_interns1(tmp_path / name, moe=False, vision=False)
        if name == "changed":
            merges = checkpoint / "merges.txt"
            kept = [line for line in merges.read_text("utf-8").splitlines() if line != "Ġ m"]
            merges.write_text("\n".join(kept) + "\n", "utf-8")
        paths.append(tmp_path / f"{name}.gguf")
        convert(checkpoint, paths[-1], type="F16", jobs=1)
    result = quality(str(paths[0]), str(paths[1]), *QUICK)
    assert result.exit_code == 1
    assert "read the data differently, from token " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.gguf", "nano-F16.gguf"], "there is no file nowhere.gguf"),
        (["nano-F16.gguf", "nobody"], "there is no file and no model 'nobody'"),
        (["nano-F16.gguf", "text.txt"], "text.txt"),
        (["nano-F16.gguf", "nano-Q8_0.gguf", "--data", "nowhere.txt"], "there is no file nowhere.txt"),
        (["nano-F16.gguf", "nano-Q8_0.gguf", "--data", "nano-F16.gguf"], "nano-F16.gguf is not UTF-8 text: byte "),
        (["nano-F16.gguf", "nano-Q8_0.gguf", "--plot", "nano-F16.gguf"], "the plot is written as SVG; name it"),
        (["nano-F16.gguf", "nano-Q8_0.gguf", "--plot", "no/x.svg"], "no/x.svg cannot be written"),
        (["nano-F16.gguf", "nano-Q8_0.gguf", "--chunk", "10000000"], "fewer than --chunk 10000000"),
    ],
)
def test_mistakes(arguments: list[str], message: str, quality: Invoke, files: Path) -> None:
    before = {path.name: path.stat().st_size for path in files.iterdir()}
    result = quality(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "unexpected" not in result.stderr
    assert {path.name: path.stat().st_size for path in files.iterdir()} == before


def test_texts_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.txt"
    path.write_text("17 + 25", encoding="utf-8-sig")
    assert read_text(path) == "17 + 25"


def test_ctrl_c_ends_it_and_writes_no_plot(files: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.txt"
    data.write_text(TEXT * 40, encoding="utf-8")
    script = "from interns1_local.commands import main; main()"
    names = ["nano-F16.gguf", *["nano-Q8_0.gguf"] * 200]
    arguments = ["quality", *names, "--data", str(data), "--threads", "1", "--plot", str(tmp_path / "plot.svg")]
    with subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=files, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("measuring")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, "")
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("*plot*")) and not list(tmp_path.glob(".interns1*"))
