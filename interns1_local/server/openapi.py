"""GET /openapi.json: the routes and the fields that they read, as a document for tools."""

from __future__ import annotations

from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local import __version__
from interns1_local.server.errors import GoJSONResponse

Json = dict[str, Any]

# A field's type as the requests' reader checks it; `any` is read in more than one form.
_TYPES: dict[str, Json] = {
    "text": {"type": "string"},
    "flag": {"type": "boolean"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "texts": {"type": "array", "items": {"type": "string"}},
    "integers": {"type": "array", "items": {"type": "integer"}},
    "any": {},
}
_MODEL = {"model": "text"}
_KEPT = {"keep_alive": "any", "options": "object"}
_THOUGHT = {"think_budget": "integer", "max_answer_tokens": "integer"}
_OLLAMA = {**_MODEL, **_KEPT, **_THOUGHT, "stream": "flag", "format": "any", "think": "any", "grammar": "object",
           "logprobs": "flag", "top_logprobs": "integer", "shift": "flag"}  # fmt: skip
_ADAPTER = {"adapter": "text", "adapter_scale": "number"}
_CHOICE = {"tool_choice": "any", "parallel_tool_calls": "flag"}
_V1 = {**_MODEL, **_KEPT, **_THOUGHT, **_ADAPTER, **_CHOICE, "stream": "flag", "tools": "array",
       "temperature": "number", "top_p": "number", "top_k": "integer", "min_p": "number", "seed": "integer",
       "chat_template_kwargs": "object", "enable_thinking": "flag", "truncate": "flag",
       "truncation": "text"}  # fmt: skip

# (method, path): (what it does, fields of its JSON body, those that it cannot do without).
OPERATIONS: dict[tuple[str, str], tuple[str, dict[str, str], tuple[str, ...]]] = {
    ("GET", "/"): ("The page, or `Ollama is running`.", {}, ()),
    ("GET", "/web/{path}"): ("A file of the page.", {}, ()),
    ("GET", "/healthz"): ("Whether the server lives.", {}, ()),
    ("GET", "/metrics"): ("Figures for Prometheus.", {}, ()),
    ("GET", "/openapi.json"): ("This document.", {}, ()),
    ("GET", "/api/version"): ("The version.", {}, ()),
    ("GET", "/api/status"): ("Whether a cloud is used: it is not. Ours: the models being loaded.", {}, ()),
    ("GET", "/api/tags"): ("The models on this machine.", {}, ()),
    ("GET", "/api/ps"): ("The models in memory.", {}, ()),
    ("POST", "/api/show"): ("What a model is.", {**_MODEL, "name": "text", "verbose": "flag"}, ()),
    ("POST", "/api/copy"): (
        "Give a model a second name.", {"source": "text", "destination": "text"}, ("source", "destination")
    ),
    ("DELETE", "/api/delete"): ("Remove a model.", {**_MODEL, "name": "text"}, ()),
    ("POST", "/api/chat"): (
        "The next message of a conversation.",
        {**_OLLAMA, **_CHOICE, "messages": "array", "tools": "array", "truncate": "flag"},
        ("model",),
    ),
    ("POST", "/api/generate"): (
        "An answer to one prompt.",
        {**_OLLAMA, "prompt": "text", "suffix": "text", "system": "text", "template": "text", "context": "integers",
         "raw": "flag", "images": "texts", "videos": "array"},
        ("model",),
    ),
    ("POST", "/api/create"): (
        "Make a model of files or of another model.",
        {**_MODEL, "name": "text", "from": "text", "files": "object", "quantize": "text", "template": "text",
         "license": "any", "system": "text", "parameters": "object", "messages": "array", "stream": "flag",
         "adapters": "object", "draft_files": "object", "draft": "text", "renderer": "text", "parser": "text",
         "requires": "text"},
        ("model",),
    ),
    ("POST", "/api/pull"): (
        "Bring a model from a registry or a hub.",
        {**_MODEL, "name": "text", "insecure": "flag", "stream": "flag", "quantize": "text"},
        ("model",),
    ),
    ("POST", "/api/push"): (
        "Send a model to a registry.", {**_MODEL, "name": "text", "insecure": "flag", "stream": "flag"}, ("model",)
    ),
    ("HEAD", "/api/blobs/{digest}"): ("Whether a blob is here.", {}, ()),
    ("POST", "/api/blobs/{digest}"): ("Upload a blob: raw bytes.", {}, ()),
    ("POST", "/api/tokenize"): (
        "How a model reads a text.",
        {**_MODEL, **_KEPT, "content": "text", "text": "text", "details": "flag", "stock": "flag"},
        ("model",),
    ),
    ("POST", "/api/detokenize"): ("The text of token ids.", {**_MODEL, **_KEPT, "tokens": "array"}, ("model",)),
    ("POST", "/api/tiles"): (
        "What a picture or a film costs a model, and the tiles that it sees.",
        {**_MODEL, "image": "text", "options": "object", "pictures": "flag"},
        ("model", "image"),
    ),
    ("POST", "/api/molecules"): (
        "The molecules and sequences of a text; the molecules drawn.", {"text": "text"}, ("text",)
    ),
    ("POST", "/api/embed"): (
        "Vectors of texts.",
        {**_MODEL, **_KEPT, "input": "any", "truncate": "flag", "dimensions": "integer"},
        ("model", "input"),
    ),
    ("POST", "/api/embeddings"): ("The vector of a prompt.", {**_MODEL, **_KEPT, "prompt": "text"}, ("model",)),
    ("POST", "/api/score"): (
        "What a reward model gives conversations.",
        {**_MODEL, **_KEPT, "messages": "array", "conversations": "array"},
        ("model",),
    ),
    ("POST", "/v1/embeddings"): (
        "Vectors of texts or token ids.",
        {**_MODEL, **_KEPT, "input": "any", "encoding_format": "text", "dimensions": "integer"},
        ("model", "input"),
    ),
    ("POST", "/v1/score"): (
        "What a reward model gives conversations; or how alike texts are.",
        {**_MODEL, **_KEPT, "messages": "array", "conversations": "array", "text_1": "any", "text_2": "any"},
        ("model",),
    ),
    ("POST", "/v1/rerank"): (
        "Documents in the order in which they answer a query.",
        {**_MODEL, **_KEPT, "query": "text", "documents": "array", "top_n": "integer", "return_documents": "flag"},
        ("model", "query", "documents"),
    ),
    ("POST", "/v1/completions"): (
        "OpenAI's completions.",
        {**_MODEL, **_KEPT, **_ADAPTER, "prompt": "any", "suffix": "text", "stream": "flag", "max_tokens": "integer",
         "n": "integer", "best_of": "integer", "echo": "flag", "logprobs": "any", "stop": "any",
         "temperature": "number"},
        ("model", "prompt"),
    ),
    ("GET", "/v1/models"): ("The models, as OpenAI lists them.", {}, ()),
    ("GET", "/v1/models/{name}"): ("One of them.", {}, ()),
    ("POST", "/v1/chat/completions"): (
        "OpenAI's chat.",
        {**_V1, "messages": "array", "max_tokens": "integer", "max_completion_tokens": "integer", "stop": "any",
         "frequency_penalty": "number", "presence_penalty": "number", "response_format": "object", "n": "integer",
         "logprobs": "flag", "top_logprobs": "integer", "logit_bias": "object", "reasoning_effort": "text",
         "reasoning": "object", "think": "any", "stream_options": "any", "guided_json": "any",
         "guided_regex": "text", "guided_choice": "array", "guided_grammar": "text", "structured_outputs": "object",
         "grammar": "any"},
        ("model", "messages"),
    ),
    ("POST", "/v1/responses"): (
        "OpenAI's responses.",
        {**_V1, "input": "any", "instructions": "text", "max_output_tokens": "integer", "text": "object",
         "reasoning": "object", "previous_response_id": "text", "store": "flag", "metadata": "object"},
        ("model", "input"),
    ),
    ("GET", "/v1/responses/{id}"): ("A response of the last hour.", {}, ()),
    ("DELETE", "/v1/responses/{id}"): ("Forget it.", {}, ()),
    ("POST", "/v1/messages"): (
        "Anthropic's messages.",
        {**_MODEL, **_KEPT, **_ADAPTER, "messages": "array", "max_tokens": "integer", "system": "any", "stream": "flag",
         "temperature": "number", "top_p": "number", "top_k": "integer", "stop_sequences": "any", "tools": "array",
         "tool_choice": "object", "thinking": "object", "output_config": "object"},
        ("model", "messages", "max_tokens"),
    ),
    ("POST", "/v1/messages/count_tokens"): (
        "The tokens that a request to /v1/messages would have.",
        {**_MODEL, **_KEPT, "messages": "array", "system": "any", "tools": "array", "thinking": "object"},
        ("model", "messages"),
    ),
}  # fmt: skip


async def openapi(request: Request) -> Response:
    return GoJSONResponse(document())


@cache
def document() -> Json:
    """The whole document, OpenAPI 3.1."""
    paths: dict[str, Json] = {}
    for (method, path), (summary, fields, required) in OPERATIONS.items():
        operation: Json = {"summary": summary, "responses": _responses(path)}
        names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        if fields:
            schema: Json = {"type": "object", "properties": {name: _TYPES[kind] for name, kind in fields.items()}}
            if required:
                schema["required"] = list(required)
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "interns1_local",
            "version": __version__,
            "description": "Ollama's API, OpenAI's and Anthropic's, for models on this machine. Fields that are not "
            "named here are ignored.",
        },
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _responses(path: str) -> Json:
    """Errors differ by protocol: a text, or an object with a message."""
    error: Json = {"type": "object", "properties": {"error": {} if path.startswith("/v1") else {"type": "string"}}}
    described = {"description": "An error", "content": {"application/json": {"schema": error}}}
    return {"200": {"description": "The answer"}, "default": described}
