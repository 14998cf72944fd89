"""Embeddings, scores and reranking by real workers on tiny models, with the real clients, against the reference."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
import torch
from transformers import AutoModel

from convert.hf_to_gguf import convert
from interns1_local import Interns1
from interns1_local.commands.own_server import own_server
from interns1_local.errors import BadRequest
from interns1_local.reference.checkpoint import Reference
from quant.requantize import COPY, plan_requantize, write
from tests.tiny import tiny_qwen3
from tests.tiny_internlm import tiny_internlm2

TEXTS = ["aspirin", "The sky is blue.", "CC(=O)O"]
LONG = "x " * 4000
MODELS = ("chat", "embedding", "framed", "rank", "reward", "damaged")
END = 7
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]
WORSE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and files: a dense model, the same that pools by mean, and a reward model, whole and damaged."""
    folder = tmp_path_factory.mktemp("pooling")
    dense = tiny_qwen3(folder / "dense", moe=False)
    convert(dense, folder / "chat.gguf", type="F32", jobs=1)
    plan = plan_requantize(folder / "chat.gguf", COPY)
    plan.fields["qwen3.pooling_type"] = 1
    write(plan, folder / "embedding.gguf", jobs=1)
    # As Qwen3-Embedding: every text ends in a token of its own.
    plan.fields.update({"tokenizer.ggml.add_eos_token": True, "tokenizer.ggml.eos_token_id": END})
    write(plan, folder / "framed.gguf", jobs=1)
    plan.fields["qwen3.pooling_type"] = 4
    write(plan, folder / "rank.gguf", jobs=1)
    reward = tiny_internlm2(folder / "reward", reward=True, max_position_embeddings=4096)
    convert(reward, folder / "reward.gguf", type="F32", jobs=1)
    plan = plan_requantize(folder / "reward.gguf", COPY)
    plan.fields["interns1.reward.v_head"] = [0.5] * 7
    write(plan, folder / "damaged.gguf", jobs=1)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    environ = {"MODELS": str(folder / "models"), "THREADS": "1", "CONTEXT_LENGTH": "256", "KV_CACHE_TYPE": "f32"}
    environ = {f"INTERNS1_{name}": value for name, value in environ.items()}
    with own_server(environ) as client:
        with ollama.Client(client.base_url) as made:
            for name in MODELS:
                made.create(model=name, files={"m.gguf": made.create_blob(folder / f"{name}.gguf")})
        yield client.base_url


def post(server: str, path: str, **body: Any) -> Any:
    response = httpx.post(server + path, json=body, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def means(server: str, folder: Path, texts: list[str]) -> np.ndarray:
    """The mean of transformers' states over the ids that the server reads."""
    model = AutoModel.from_pretrained(folder / "dense", dtype=torch.float32)
    rows = []
    for text in texts:
        ids = post(server, "/api/tokenize", model="embedding", content=text)["tokens"]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy())
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_clients_agree_with_the_reference(server: str, folder: Path) -> None:
    expected = means(server, folder, TEXTS)
    with ollama.Client(server) as client:
        found = client.embed("embedding", TEXTS)
        assert np.allclose(np.array(found.embeddings), expected, atol=1e-3)
        assert found.prompt_eval_count and found.total_duration
        assert np.allclose(client.embed("embedding", TEXTS[0]).embeddings, expected[:1], atol=1e-3)
        short = np.array(client.embed("embedding", TEXTS, dimensions=8).embeddings)
        assert short.shape == (3, 8) and np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
        assert np.allclose(short * np.linalg.norm(expected[:, :8], axis=1, keepdims=True), expected[:, :8], atol=1e-3)
        raw = np.array(client.embeddings("embedding", TEXTS[0]).embedding)
        assert np.allclose(raw / np.linalg.norm(raw), expected[0], atol=1e-3)
        assert client.embed("embedding", "").embeddings == [] and client.embed("embedding", []).embeddings == []
        assert len(client.embed("chat", "a chat model embeds too").embeddings[0]) == expected.shape[1]
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as api:
        answer = api.embeddings.create(model="embedding", input=TEXTS)
        assert np.allclose([item.embedding for item in answer.data], expected, atol=1e-3)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
        plain = api.embeddings.create(model="embedding", input=TEXTS[0], encoding_format="float", dimensions=4)
        assert len(plain.data[0].embedding) == 4
        by_ids = api.embeddings.create(model="embedding", input=[[65, 66], [67]])
        assert len(by_ids.data) == 2
    packed = post(server, "/v1/embeddings", model="embedding", input=TEXTS[0], encoding_format="base64")
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert np.allclose(vector, expected[0], atol=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ("/api/embed", {"model": "", "input": "x"}, 404, "model '' not found"),
        ("/api/embed", {"model": "embedding", "input": [1]}, 400, "invalid input type"),
        (
            "/api/embed",
            {"model": "embedding", "input": "x " * 4000, "truncate": False},
            400,
            "the input length exceeds",
        ),
        ("/api/embed", {"model": "embedding", "input": "x", "dimensions": -1}, 400, "dimensions must be at least 1"),
        ("/api/embeddings", {"model": "", "prompt": "x"}, 400, "model is required"),
        ("/v1/embeddings", {"model": "embedding", "input": []}, 400, "invalid input"),
        ("/v1/embeddings", {"model": "embedding", "input": "x", "encoding_format": "xml"}, 400, "Supported values"),
        ("/v1/embeddings", {"model": "embedding", "input": [[999999]]}, 400, "999999"),
        ("/v1/embeddings", {"model": "embedding", "input": [2**40]}, 400, "invalid input"),
        ("/v1/embeddings", {"model": "embedding", "input": [True]}, 400, "invalid input"),
        ("/api/embed", {"model": "rank", "input": "x"}, 400, "the file's pooling_type is 4"),
        ("/v1/rerank", {"model": "rank", "query": "x", "documents": ["y"]}, 400, "Rerank with an embedding model"),
        ("/api/score", {"model": "damaged", "messages": CHAT}, 500, "the file's v_head has"),
        ("/api/score", {"model": "reward", "messages": [{"role": "user", "content": LONG}]}, 400, "option num_ctx"),
        ("/api/chat", {"model": "embedding", "messages": CHAT}, 400, '"embedding" does not support chat'),
        ("/api/chat", {"model": "reward", "messages": CHAT}, 400, '"reward" does not support chat'),
        ("/api/score", {"model": "chat", "messages": CHAT}, 400, "it is not a reward model"),
        ("/api/score", {"model": "reward", "messages": []}, 400, "no messages"),
        ("/api/score", {"model": "reward", "conversations": ["x"]}, 400, "a list of messages"),
        ("/v1/rerank", {"model": "embedding", "query": "", "documents": ["x"]}, 400, "a query and documents"),
        ("/v1/rerank", {"model": "embedding", "query": "x", "documents": [1]}, 400, "documents must be texts"),
        ("/v1/rerank", {"model": "embedding", "query": "x", "documents": ["y"], "top_n": 0}, 400, "top_n must be"),
        ("/v1/score", {"model": "embedding", "text_1": ["a", "b"], "text_2": ["c"]}, 400, "as many, were expected"),
    ],
)
def test_mistakes(server: str, path: str, body: dict[str, Any], status: int, message: str) -> None:
    response = httpx.post(server + path, json=body, trust_env=False, timeout=60)
    assert response.status_code == status and message in response.text.replace('\\"', '"')


def test_long_inputs_are_cut(server: str) -> None:
    assert post(server, "/api/embed", model="embedding", input=LONG)["prompt_eval_count"] <= 256


def test_texts_end_as_their_vocabulary_says(server: str) -> None:
    """In a text that is cut, too. Token ids are taken as they come."""
    ids = post(server, "/api/tokenize", model="framed", content=LONG)["tokens"]
    assert len(ids) > 300
    by_ids = post(server, "/v1/embeddings", model="framed", input=[[*ids[:255], END], [*ids[:3], END], ids[:3]])
    expected = np.array([item["embedding"] for item in by_ids["data"]])
    short = post(server, "/api/detokenize", model="framed", tokens=ids[:3])["content"]
    found = post(server, "/api/embed", model="framed", input=[LONG, short])
    assert np.allclose(found["embeddings"], expected[:2], atol=1e-4)
    assert not np.allclose(found["embeddings"][1], expected[2], atol=1e-2)
    assert found["prompt_eval_count"] == 256 + 4


def test_a_list_of_many_texts(server: str) -> None:
    """More than are computed at once: the vectors are those of the texts alone, the tokens are counted together."""
    texts = [f"text number {n}" for n in range(70)]
    together = post(server, "/api/embed", model="embedding", input=texts)
    alone = [post(server, "/api/embed", model="embedding", input=text) for text in texts[::10]]
    assert np.allclose(together["embeddings"][::10], [one["embeddings"][0] for one in alone], atol=1e-3)
    counts = [len(post(server, "/api/tokenize", model="embedding", content=text)["tokens"]) for text in texts]
    assert len(together["embeddings"]) == 70 and together["prompt_eval_count"] == sum(counts)


def test_scores(server: str, folder: Path) -> None:
    """The reference's score of the reference's own tokens."""
    reference = Reference(folder / "reward")
    texts = [reference.render(messages, add_generation_prompt=False) or "" for messages in (CHAT, WORSE)]
    expected = [reference.state_and_score([*reference.encode(text), reference.reward_token])[1] for text in texts]
    one = post(server, "/api/score", model="reward", messages=CHAT)
    assert one["score"] == pytest.approx(expected[0], abs=1e-3) and one["prompt_eval_count"] > 0
    both = post(server, "/api/score", model="reward", conversations=[CHAT, {"messages": WORSE}])
    assert both["scores"] == pytest.approx(expected, abs=1e-3)
    listed = post(server, "/v1/score", model="reward", conversations=[CHAT, WORSE])
    assert [item["score"] for item in listed["data"]] == pytest.approx(expected, abs=1e-3)
    with Interns1(folder / "reward.gguf", options={"num_ctx": 256, "kv_cache_type": "f32"}) as model:
        assert model.score(CHAT) == pytest.approx(expected[0], abs=1e-3)
        assert model.score([CHAT, WORSE]) == pytest.approx(expected, abs=1e-3)
    long = [*CHAT, *({"role": role, "content": "word " * 300} for role in ("user", "assistant"))]
    text = reference.render(long, add_generation_prompt=False) or ""
    ids = [*reference.encode(text), reference.reward_token]
    assert len(ids) > 1000
    with Interns1(folder / "reward.gguf", options={"num_ctx": 4096, "kv_cache_type": "f32"}) as model:
        scores = model.score([long, *[CHAT] * 40])
        assert scores[0] == pytest.approx(reference.state_and_score(ids)[1], abs=1e-3)
        assert scores[1:] == pytest.approx([expected[0]] * 40, abs=1e-3)
    with Interns1(folder / "embedding.gguf", options={"num_ctx": 256}) as model:
        with pytest.raises(BadRequest, match="not a reward model"):
            model.score(CHAT)
        assert np.allclose(model.embed(TEXTS), means(server, folder, TEXTS), atol=1e-3)


def test_rerank_and_similarity(server: str, folder: Path) -> None:
    expected = means(server, folder, TEXTS)
    documents = [TEXTS[1], {"text": TEXTS[0]}, TEXTS[2]]
    answer = post(server, "/v1/rerank", model="embedding", query=TEXTS[0], documents=documents, top_n=2)
    assert answer["results"][0]["index"] == 1 and len(answer["results"]) == 2
    assert answer["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-4)
    assert answer["results"][0]["document"] == {"text": TEXTS[0]}
    alike = post(server, "/v1/score", model="embedding", text_1=TEXTS[0], text_2=TEXTS[1:])
    cosines = [float(expected[0] @ expected[1]), float(expected[0] @ expected[2])]
    assert [item["score"] for item in alike["data"]] == pytest.approx(cosines, abs=1e-3)
    rewarded = post(server, "/v1/rerank", model="reward", query="Hi", documents=["Hello there.", "No."])
    scores = post(server, "/api/score", model="reward", conversations=[CHAT, WORSE])["scores"]
    best = max(range(2), key=lambda index: scores[index])
    assert rewarded["results"][0]["index"] == best
    assert rewarded["results"][0]["relevance_score"] == pytest.approx(scores[best], abs=1e-4)


def test_capabilities(server: str) -> None:
    with ollama.Client(server) as client:
        assert client.show("embedding").capabilities == ["embedding"]
        assert client.show("reward").capabilities == ["score"]
