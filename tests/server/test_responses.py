"""POST /v1/responses with the `openai` client: whole, streamed, continued, with tools, cut and failed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from interns1_local.chat.message import Message, Text
from interns1_local.errors import NotFound, WorkerDied
from interns1_local.server import response_memory
from interns1_local.server.response_memory import ResponseMemory, Stored
from tests.server.fake_runner import FakeBackend

CALL = '</think><|action_start|><|plugin|>{"name": "add", "parameters": {"a": 1}}<|action_end|>'
TOOLS: Any = [{"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}]


@pytest.fixture
def api(live_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole(api: openai.OpenAI, backend: FakeBackend) -> None:
    backend.enqueue("because</think>", "Hel", "lo")
    answer = api.responses.create(model="tiny", input="Hi", instructions="Be kind.", max_output_tokens=50, top_p=0.5)
    assert answer.output_text == "Hello" and answer.status == "completed"
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].summary[0].text == "because"  # type: ignore[union-attr]
    assert answer.usage is not None and answer.usage.total_tokens == 10
    assert answer.usage.input_tokens_details.cached_tokens == 3
    assert backend.last_text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>")
    assert (backend.last.max_tokens, backend.last.sampling.top_p) == (50, 0.5)
    assert answer.instructions == "Be kind." and answer.top_p == 0.5


def test_stream(api: openai.OpenAI, backend: FakeBackend) -> None:
    backend.enqueue("be", "cause</think>", "Hel", "lo")
    events = list(api.responses.create(model="tiny", input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress", "output_item.added", "reasoning_summary_part.added",
        "reasoning_summary_text.delta", "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done", "output_item.done", "output_item.added", "content_part.added",
        "output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    final = events[-1].response  # type: ignore[union-attr]
    assert final.output_text == "Hello" and final.usage is not None
    with api.responses.stream(model="tiny", input="Hi") as stream:
        assert stream.get_final_response().status == "completed"


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_and_their_results(api: openai.OpenAI, backend: FakeBackend, streamed: bool) -> None:
    backend.enqueue("hm", CALL)
    first: Any = api.responses.create(model="tiny", input="1?", tools=TOOLS, stream=streamed)
    if streamed:
        first = list(first)[-1].response
    thought, call = first.output
    assert thought.type == "reasoning"
    assert (call.type, call.name, call.arguments) == (
        "function_call",
        "add",
        '{"a": 1}',
    )
    backend.enqueue("</think>done")
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "2"}]
    second = api.responses.create(model="tiny", input=result, previous_response_id=first.id, tools=TOOLS)
    assert second.output_text == "done" and second.previous_response_id == first.id
    turns = backend.last_text.count("<|im_start|>")
    assert turns == 4 and "user\n1?" in backend.last_text and "tool\n2" in backend.last_text
    # The same conversation, sent whole.
    items: Any = [{"role": "user", "content": "1?"}, *[item.model_dump() for item in first.output], *result]
    before = backend.last_text
    api.responses.create(model="tiny", input=items, tools=TOOLS)
    assert backend.last_text == before


def test_instructions_hold_for_one_response(api: openai.OpenAI, backend: FakeBackend) -> None:
    first = api.responses.create(model="tiny", input="Hi", instructions="Be kind.")
    api.responses.create(model="tiny", input="And?", previous_response_id=first.id, instructions="Be brief.")
    assert "Be kind." not in backend.last_text and "Be brief." in backend.last_text
    assert backend.last_text.index("user\nHi") < backend.last_text.index("user\nAnd?")


def test_cut_and_failed(api: openai.OpenAI, backend: FakeBackend) -> None:
    backend.enqueue("a</think>", "b")
    cut = api.responses.create(model="tiny", input="Hi", max_output_tokens=2)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"  # type: ignore[union-attr]
    backend.enqueue("a</think>", "b")
    assert list(api.responses.create(model="tiny", input="Hi", max_output_tokens=2, stream=True))[-1].type == (
        "response.incomplete"
    )
    backend.enqueue("a</think>b", WorkerDied("gone"))
    last = list(api.responses.create(model="tiny", input="Hi", stream=True))[-1]
    assert last.type == "response.failed" and last.response.error.message == "gone"  # type: ignore[union-attr]


def test_kept_and_deleted(api: openai.OpenAI) -> None:
    answer = api.responses.create(model="tiny", input="Hi")
    assert api.responses.retrieve(answer.id).output_text == answer.output_text
    api.responses.delete(answer.id)
    with pytest.raises(openai.NotFoundError, match="kept for an hour"):
        api.responses.retrieve(answer.id)
    forgotten = api.responses.create(model="tiny", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        api.responses.create(model="tiny", input="Hi", previous_response_id=forgotten.id)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_memory, "MAX_BYTES", 5000)
    now = 0.0
    memory = ResponseMemory(lambda: now)
    for index in range(10):
        memory.add(f"r{index}", Stored((Message("user", (Text("x" * 500),)),), {"id": index}))
    with pytest.raises(NotFound):
        memory.get("r0")
    assert memory.get("r9").response == {"id": 9}
    now = 3601.0
    with pytest.raises(NotFound):
        memory.get("r9")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": ""}, "model is required"),
        ({"input": []}, "input is required"),
        ({"input": [{"type": "odd"}]}, 'invalid input item type "odd"'),
        ({"input": [{"role": "user", "content": [{"type": "odd"}]}]}, 'invalid content part type "odd"'),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "no"}]}, "invalid function call arguments"),
        ({"previous_response_id": "resp_x"}, "previous response 'resp_x' not found"),
    ],
)
def test_errors(client: TestClient, body: dict[str, Any], message: str) -> None:
    response = client.post("/v1/responses", json={"model": "tiny", "input": "Hi", **body})
    assert response.status_code in (400, 404)
    assert message in response.json()["error"]["message"]
