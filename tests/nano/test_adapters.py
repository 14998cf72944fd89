"""Adapters through HTTP: a model with a LoRA answers as the model into which it was merged, in text and figures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import openai
import pytest
from click.testing import CliRunner

from interns1_local import Interns1
from interns1_local.commands.group import interns1 as command_line
from interns1_local.errors import BadRequest, LoadError
from tests.convert.test_lora import write_peft
from tests.lora_files import ALPHA, RANK, Pairs, random_pairs, write_lora, write_merged

EXACT = {"kv_cache_type": "f32", "num_ctx": 512, "temperature": 0, "num_predict": 40}
CLOSE = 1e-3
PROMPTS = ("What is 12 + 7?", "Name a colour.", "Count to five: one, two,", "The sum of 3 and 4 is", "user: 1 2 3")
BLOCK = ("attn_q", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
CHANGED = [f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in BLOCK]
ENDS = ["output.weight", "token_embd.weight"]

Served = Callable[[str], str]


@pytest.fixture(scope="module")
def base(nano_gguf: Callable[..., tuple[Path, Path]], served: Served) -> tuple[str, Path]:
    """The nano in F32: its name on the server, and its file."""
    return served("F32"), nano_gguf("F32", "F32")[0]


@pytest.fixture(scope="module")
def pairs(base: tuple[str, Path]) -> Pairs:
    return random_pairs(base[1], CHANGED + ENDS)


@pytest.fixture(scope="module")
def adapted(
    client: ollama.Client, base: tuple[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The nano with an adapter."""
    path = write_lora(tmp_path_factory.mktemp("lora") / "lora.gguf", pairs)
    made = client.create(model="adapted", from_=base[0], adapters={path.name: client.create_blob(path)})
    assert made.status == "success"
    return "adapted"


@pytest.fixture(scope="module")
def merged(
    client: ollama.Client, base: tuple[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The nano with the same change in its weights."""
    path = write_merged(base[1], pairs, tmp_path_factory.mktemp("merged") / "merged.gguf")
    assert client.create(model="merged", files={path.name: client.create_blob(path)}).status == "success"
    return "merged"


def answer(client: ollama.Client, model: str, prompt: str, **more: Any) -> tuple[str, np.ndarray]:
    """The raw text of a greedy answer, and the log-probabilities of its tokens and of each one's rivals."""
    found: Any = client.generate(model, prompt, raw=True, options=EXACT | more, logprobs=True, top_logprobs=3)
    rows = [[entry.logprob, *(rival.logprob for rival in entry.top_logprobs)] for entry in found.logprobs or []]
    return found.response, np.array(rows)


def test_answers_as_the_merged_model(client: ollama.Client, adapted: str, merged: str, base: tuple[str, Path]) -> None:
    differs, n_tokens = False, 0
    for prompt in PROMPTS:
        text, figures = answer(client, adapted, prompt)
        expected_text, expected = answer(client, merged, prompt)
        assert text == expected_text
        assert figures.shape == expected.shape and np.abs(figures - expected).max(initial=0) < CLOSE
        differs |= answer(client, base[0], prompt)[0] != text
        n_tokens += len(figures)
    assert differs and n_tokens > 20


def test_embeds_as_the_merged_model(client: ollama.Client, adapted: str, merged: str, base: tuple[str, Path]) -> None:
    options = {"kv_cache_type": "f32", "num_ctx": 512}
    vectors = [np.array(client.embed(name, "Water boils.", options=options).embeddings) for name in (adapted, merged)]
    assert np.abs(vectors[0] - vectors[1]).max() < CLOSE
    plain = np.array(client.embed(base[0], "Water boils.", options=options).embeddings)
    assert np.abs(plain - vectors[0]).max() > 10 * CLOSE


def test_show_copy_replace_and_delete(
    server: str, client: ollama.Client, adapted: str, base: tuple[str, Path], pairs: Pairs, tmp_path: Path
) -> None:
    line = _adapter_line(client, adapted)
    assert Path(line).is_file()
    client.copy(adapted, "copied")
    client.create(model="inherits", from_=adapted, system="Be brief.")
    assert _adapter_line(client, "copied") == _adapter_line(client, "inherits") == line
    other = write_lora(tmp_path / "other.gguf", {CHANGED[0]: pairs[CHANGED[0]]})
    client.create(model="inherits", from_=adapted, adapters={"other.gguf": client.create_blob(other)})
    replaced = _adapter_line(client, "inherits")
    assert replaced != line and Path(replaced).read_bytes() == other.read_bytes()
    for name in ("copied", "inherits"):
        client.delete(name)
    assert Path(line).is_file() and not Path(replaced).exists()


def test_modelfile_in_python(
    base: tuple[str, Path], merged: str, client: ollama.Client, pairs: Pairs, tmp_path: Path
) -> None:
    """The adapter of a Modelfile that was never created, and one that nobody checked before the worker does."""
    write_lora(tmp_path / "lora.gguf", pairs)
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM {base[1]}\nADAPTER ./lora.gguf\n")
    with Interns1(modelfile, options={"num_thread": 2, "num_ctx": 512, "kv_cache_type": "f32"}) as model:
        for prompt in PROMPTS[:3]:
            said = model.generate(prompt, temperature=0, max_tokens=40)
            assert str(said) == answer(client, merged, prompt)[0]
        said = model.generate(PROMPTS[2], temperature=0, max_tokens=40, adapter="none")
        assert str(said) == answer(client, base[0], PROMPTS[2])[0]
        with pytest.raises(BadRequest, match="has no adapter 'lara': choose one of lora, or 'none'"):
            model.generate(PROMPTS[2], adapter="lara")
    a, b = pairs["blk.0.ffn_up_exps.weight"]
    write_lora(tmp_path / "lora.gguf", {"blk.0.ffn_up_exps.weight": (a[:2], b[:2])})
    with pytest.raises(LoadError, match="was it made for this model"), Interns1(modelfile) as model:
        model.chat("Hello")


def test_peft_files(client: ollama.Client, base: tuple[str, Path], tmp_path: Path) -> None:
    names = {"blk.0.attn_q.weight": "0.self_attn.q_proj", "blk.1.ffn_gate_inp.weight": "1.mlp.gate"}
    pairs = random_pairs(base[1], list(names))
    modules = {f"model.language_model.layers.{names[name]}": pair for name, pair in pairs.items()}
    folder = write_peft(tmp_path / "peft", modules, r=RANK, lora_alpha=ALPHA)
    adapters = {path.name: client.create_blob(path) for path in folder.iterdir()}
    statuses = [step.status for step in client.create(model="peft", from_=base[0], adapters=adapters, stream=True)]
    assert statuses[0] == "converting adapter" and statuses[-1] == "success"
    plain = write_lora(tmp_path / "plain.gguf", pairs)
    client.create(model="plain-lora", from_=base[0], adapters={"plain.gguf": client.create_blob(plain)})
    for prompt in PROMPTS[:2]:
        (text, figures), (expected_text, expected) = (answer(client, name, prompt) for name in ("peft", "plain-lora"))
        assert text == expected_text and np.abs(figures - expected).max(initial=0) < CLOSE


def _adapter_line(client: ollama.Client, model: str) -> str:
    lines = (client.show(model).modelfile or "").splitlines()
    found = [line.removeprefix("ADAPTER ") for line in lines if line.startswith("ADAPTER ")]
    assert len(found) == 1
    return found[0].partition(" AS ")[0]


@pytest.fixture(scope="module")
def several(
    client: ollama.Client, base: tuple[str, Path], pairs: Pairs, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The nano with two adapters, `plus` and `minus`, and models with each of them alone."""
    folder = tmp_path_factory.mktemp("several")
    opposite = {name: (a, -1.5 * b) for name, (a, b) in pairs.items()}
    files = {"plus": write_lora(folder / "plus.gguf", pairs), "minus": write_lora(folder / "minus.gguf", opposite)}
    adapters = {f"{name}.gguf": client.create_blob(path) for name, path in files.items()}
    client.create(model="several", from_=base[0], adapters=adapters)
    for name in files:
        client.create(model=name, from_=base[0], adapters={f"{name}.gguf": adapters[f"{name}.gguf"]})
    return "several"


def test_each_request_has_the_adapter_that_it_chooses(
    client: ollama.Client, several: str, base: tuple[str, Path]
) -> None:
    def say(model: str, **options: Any) -> tuple[str, np.ndarray]:
        return answer(client, model, "user: Count to five, then name a colour: one, two,", **options)

    def same(one: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> bool:
        return one[0] == other[0] and np.abs(one[1] - other[1]).max() < CLOSE

    alone = {"plus": say("plus"), "minus": say("minus"), "none": say(base[0])}
    assert not any(same(alone[one], alone[other]) for one, other in combinations(alone, 2))
    wanted = ["plus", "minus", "none", "minus", "none", "plus"] * 2
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = list(pool.map(lambda name: say(several, adapter=name), wanted))
    # At once; then one after the other, with what all others read in the cache.
    assert all(map(same, found, (alone[name] for name in wanted)))
    assert all(same(say(several, adapter=name), said) for name, said in alone.items())
    assert same(say(several), alone["plus"]), "the first is for those who say nothing"
    assert same(say(several, adapter="minus", adapter_scale=0), alone["none"])
    with pytest.raises(ollama.ResponseError, match="several:latest has no adapter 'other': choose one of plus, minus"):
        say(several, adapter="other")


def test_vectors_and_other_doors_have_it_too(
    client: ollama.Client, openai_client: openai.OpenAI, several: str, base: tuple[str, Path]
) -> None:
    def vector(model: str, **more: Any) -> np.ndarray:
        options = {"kv_cache_type": "f32", "num_ctx": 512, **more}
        return np.array(client.embed(model, "Water boils.", options=options).embeddings)

    for name, single in (("plus", "plus"), ("minus", "minus"), ("none", base[0])):
        assert np.abs(vector(several, adapter=name) - vector(single)).max() < CLOSE
    answers = []
    for model, extra in ((several, {"adapter": "minus"}), ("minus", {}), (several, {})):
        answer = openai_client.completions.create(
            model=model, prompt=PROMPTS[2], max_tokens=40, temperature=0, extra_body={"options": EXACT} | extra
        )
        answers.append(answer.choices[0].text)
    assert answers[0] == answers[1] != answers[2]


def test_a_modelfile_of_several_adapters(
    client: ollama.Client, server: str, several: str, base: tuple[str, Path], pairs: Pairs, tmp_path: Path
) -> None:
    """Through the command line and back: a PEFT folder, a file with a name of its own, a default."""
    modules = {"model.language_model.layers.0.self_attn.q_proj": pairs["blk.0.attn_q.weight"]}
    write_peft(tmp_path / "peft", modules, r=RANK, lora_alpha=ALPHA)
    write_lora(tmp_path / "lora.gguf", pairs)
    text = f"FROM {base[0]}\nADAPTER ./peft\nADAPTER ./lora.gguf AS strong one\nPARAMETER adapter strong one\n"
    (tmp_path / "Modelfile").write_text(text)
    environment = {"INTERNS1_HOST": server.removeprefix("http://")}

    def interns1(*arguments: str) -> str:
        done = CliRunner().invoke(command_line, list(arguments), env=environment, prog_name="interns1")
        assert done.exit_code == 0, done.output
        return done.stdout

    interns1("create", "listed", "-f", str(tmp_path / "Modelfile"))
    shown = interns1("show", "listed")
    assert "Adapters" in shown and "peft" in shown and "strong one" in shown
    (tmp_path / "again").write_text(interns1("show", "listed", "--modelfile"))
    interns1("create", "again", "-f", str(tmp_path / "again"))
    layers = [client.show(name).modelfile.splitlines() for name in ("listed", "again")]
    adapters = [[line for line in lines if line.startswith(("ADAPTER", "PARAMETER adapter"))] for lines in layers]
    assert adapters[0] == adapters[1] and len(adapters[0]) == 3
    assert answer(client, "listed", PROMPTS[2])[0] == answer(client, "plus", PROMPTS[2])[0]
