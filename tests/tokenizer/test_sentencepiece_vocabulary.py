"""InternLM's vocabularies: our ids, of the converted file, against SentencePiece, with the rules of added tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import pytest

from convert.hf_to_gguf import convert
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.reference.sentencepiece_tokenizer import SentencePieceTokenizer
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.text_codec import TextCodec
from tests.tiny_internlm import ACTION_TOKENS, sentencepiece_model, tiny_internlm2

RULES = {
    "<|im_start|>": {"rstrip": True},
    "<|im_end|>": {"lstrip": True, "rstrip": True},
    "<|plugin|>": {"single_word": True},
    "<|action_end|>": {"single_word": True, "lstrip": True},
}
WORDS = "The quick brown fox|  |\n| |\t|书生·浦语|🤗|é|def add(a, b):|\u2581|<|</s>|<unk>"
WORDS += "|[UNUSED_TOKEN_1]|<0x41>|im_start|\r\n|ﬁ"
PIECES = (*ACTION_TOKENS, *WORDS.split("|"))


@pytest.fixture(scope="module")
def sides(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[bool], tuple[TextCodec, SentencePieceTokenizer]]]:
    models: list[Model] = []

    def open_both(dummy_prefix: bool) -> tuple[TextCodec, SentencePieceTokenizer]:
        folder = tmp_path_factory.mktemp("internlm")
        tiny_internlm2(folder)
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(dummy_prefix))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        for entry in settings["added_tokens_decoder"].values():
            entry |= RULES.get(entry["content"], {})
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        convert(folder, folder / "model.gguf", type="F32", jobs=1)
        models.append(Model(folder / "model.gguf", ON_CPU))
        codec = TextCodec(read_model_facts(folder / "model.gguf").metadata, models[-1].vocab.encode)
        return codec, SentencePieceTokenizer(folder)

    yield open_both
    for model in models:
        model.close()


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_ids_equal_sentencepiece(
    dummy_prefix: bool, sides: Callable[[bool], tuple[TextCodec, SentencePieceTokenizer]]
) -> None:
    codec, reference = sides(dummy_prefix)
    rng = random.Random(5)
    for _ in range(3000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 9)))
        assert codec.encode(text) == reference.encode(text), text
        details = codec.describe(text).tokens
        assert [token["id"] for token in details] == reference.encode(text)


def test_the_rules_of_added_tokens(sides: Callable[[bool], tuple[TextCodec, SentencePieceTokenizer]]) -> None:
    codec, _ = sides(False)
    ids = {name: codec.encode(name)[0] for name in RULES}
    assert codec.encode("fox<|im_start|> \n fox") == [*codec.encode("fox"), ids["<|im_start|>"], *codec.encode("fox")]
    assert codec.encode("fox  <|im_end|>  fox") == [*codec.encode("fox"), ids["<|im_end|>"], *codec.encode("fox")]
    assert ids["<|plugin|>"] in codec.encode("fox <|plugin|> fox")
    assert ids["<|plugin|>"] not in codec.encode("fox<|plugin|> fox")
    spans = [(token["start"], token["end"]) for token in codec.describe("a <|im_end|> b").tokens]
    assert spans == [(0, 1), (2, 12), (13, 14)]
