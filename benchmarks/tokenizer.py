"""The science tokenizer beside llama.cpp's plain encoder: MB of UTF-8 a second on one core, prose to hostile runs.

    python -m benchmarks.tokenizer                 about a minute
    python -m benchmarks.tokenizer --megabytes 0.2 --vocabulary 4000

The vocabulary is a large one, trained here on this Python's own library and on generated texts (the shipped nano has
1280 base tokens), in Intern-S1's own layout of 153,216 ids. A text is new to the tokenizer when it is measured: `cold`
is the first time, `again` the second, as when a conversation goes on. Compared is the whole work on our side with the
byte pairs alone on the side of llama.cpp: ids differ where a text holds science.
"""

from __future__ import annotations

import argparse
import json
import random
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from convert.hf_to_gguf import convert
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.text_codec import TextCodec
from interns1_local.tokenizer.molecules import SmilesDetection
from interns1_local.tokenizer.words import WORD
from tests.nano.true_layout import write_true_layout

SYLLABLES = "re con tion er ing al pro ate in ment sol vent phos pha yl ene the of and to a is ca ta lyst ly st".split()
FRAGMENTS = (
    "C CC N O c1ccccc1 C(=O)O C(=O)N c1ccncc1 S(=O)(=O) [C@@H](C) Cl F Br C1CCNCC1 c1c[nH]c2ccccc12 /C=C/ OC".split()
)

SMILES_PIECES = [
    *"CNOSFIPBcnospHl()[]=#123456@+-/\\r",
    "CC",
    "(=O)",
    "cc",
    "c1",
    "C(=O)",
    "ccc",
    "c1ccccc1",
    "Cl",
    "Br",
]


def prose(rng: random.Random, size: int) -> str:
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(20_000)]
    weights = [1 / place for place in range(1, len(words) + 1)]
    text = " ".join(rng.choices(words, weights, k=size // 5))
    return ". ".join(text[place : place + 90].capitalize() for place in range(0, len(text), 90))[:size]


def chinese(rng: random.Random, size: int) -> str:
    letters = [chr(code) for code in range(0x4E00, 0x9FA5)]
    rng.shuffle(letters)
    weights = [1 / place for place in range(1, len(letters) + 1)]
    drawn = rng.choices(letters, weights, k=size // 3)
    return "".join(letter + rng.choice(["", "", "", "", "", "", "，", "。"]) for letter in drawn)[: size // 3]


def code(rng: random.Random, size: int) -> str:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    rng.shuffle(files)
    text = ""
    for file in files:
        if len(text) < size:
            text += file.read_text(encoding="utf-8", errors="replace")
    return text[:size]


def molecules(rng: random.Random, size: int) -> str:
    """No two are the same, and most are molecules to RDKit as well."""
    lines: list[str] = []
    while sum(map(len, lines)) < size:
        lines += ["C" + "".join(rng.choices(FRAGMENTS, k=rng.randint(4, 12))) + "C" for _ in range(1000)]
    return "\n".join(lines)[:size]


def hostile(size: int) -> dict[str, str]:
    runs = {
        f"{piece} ...": piece * (size // len(piece)) for piece in ("C1CC1(", "[", "C", "%", "A", " ", "(", "<", "你")
    }
    runs["<SMILES> ..."] = "<SMILES>" * min(100_000, size // 8)
    runs["<SMILES>CCC ..."] = "<SMILES>" + "C" * size
    runs["c1ccccc1 ..."] = "c1ccccc1" * (size // 8)
    runs["C1CC1( ... balanced"] = "C1CC1(" * (size // 7) + "C" + ")" * (size // 7)
    return runs


def train(texts: list[str], size: int) -> tuple[dict[str, int], list[str]]:
    """Byte-level byte pairs of `size` tokens -> (vocabulary, merge lines)."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD.pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def write_checkpoint(folder: Path, vocabulary: dict[str, int], merges: list[str]) -> Path:
    """A checkpoint with this base vocabulary in Intern-S1's own layout of ids."""
    subset = folder / "subset.json"
    subset.write_text(json.dumps({"vocab": vocabulary, "merges": merges}), encoding="utf-8")
    (folder / "checkpoint").mkdir()
    pieces = {piece: place for place, piece in enumerate(SMILES_PIECES, 3)}
    return write_true_layout(folder / "checkpoint", subset, pieces)


def speed(encode: Callable[[str], object], text: str) -> float:
    start = time.thread_time()
    encode(text)
    return len(text.encode()) / max(time.thread_time() - start, 1e-9) / 1e6


def report(name: str, text: str, codec: Callable[[SmilesDetection], TextCodec], stock: Callable[[str], object]) -> None:
    row = [f"{name:22}", f"{len(text.encode()) / 1e6:6.2f}"]
    for detection in ("rules", "rdkit"):
        ours = codec(detection)
        row += [f"{speed(ours.encode, text):11.2f}", f"{speed(ours.encode, text):6.2f}"]
    print(*row, f"{speed(stock, text):10.2f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=1.0, help="of each text; default: 1")
    parser.add_argument("--vocabulary", type=int, default=60_000, help="base tokens to train; default: 60000")
    options = parser.parse_args()
    size = int(options.megabytes * 1e6)
    kinds = {"prose": prose, "code": code, "Chinese": chinese, "dense molecules": molecules}
    seen = [make(random.Random(1), 2_000_000) for make in (prose, code, chinese)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_checkpoint(Path(temporary), *train(seen, options.vocabulary))
        convert(folder, folder / "model.gguf", type="F16")
        model = Model(folder / "model.gguf", ON_CPU)
        metadata = read_model_facts(folder / "model.gguf").metadata

        def codec(detection: SmilesDetection) -> TextCodec:
            return TextCodec(metadata, model.vocab.encode, detection=detection)

        print(f"{len(metadata['tokenizer.ggml.tokens'])} tokens; MB/s of CPU time")
        print(
            f"{'text':22} {'MB':>6} {'rules cold':>11} {'again':>6} {'RDKit cold':>11} {'again':>6} {'llama.cpp':>10}"
        )
        rng = random.Random(2)
        for name, make in kinds.items():
            report(name, make(rng, size), codec, model.vocab.encode)
        for name, text in hostile(size).items():
            report(name, text, codec, model.vocab.encode)
        model.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
