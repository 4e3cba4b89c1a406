"""Describes the HTTP API in OpenAPI, generated from the structs that read and write its bodies."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from node.api import chat_schema, rerank_schema, schema, token_schema
from node.api.anthropic.answer import MessageAnswer, MessageError, TokenCount
from node.api.anthropic.schema import CountTokensRequest, MessagesRequest
from node.api.http import answer
from node.api.neutral import NEUTRAL, Values
from node.api.responses.answer import ResponseObject
from node.api.responses.schema import ResponsesRequest
from shared.settings.base import APPLICATION

_REFERENCE: Final = "#/components/schemas/{name}"
_BODIES: Final = (
    schema.CompletionRequest,
    chat_schema.ChatRequest,
    token_schema.TokenizeRequest,
    token_schema.DetokenizeRequest,
    token_schema.TemplateRequest,
    token_schema.Tokens,
    token_schema.Text,
    ResponsesRequest,
    ResponseObject,
    MessagesRequest,
    CountTokensRequest,
    MessageAnswer,
    MessageError,
    TokenCount,
    schema.EmbeddingRequest,
    rerank_schema.RerankRequest,
    rerank_schema.Ranking,
    schema.ErrorBody,
    answer.Completion,
    answer.ChatCompletion,
    answer.ChatChunk,
    answer.Model,
    answer.ModelList,
    answer.EmbeddingList,
    answer.Health,
)


_POSTS: Final[tuple[tuple[str, type, str, str, type], ...]] = (
    (
        "/v1/completions",
        schema.CompletionRequest,
        "complete",
        "Continue a text",
        answer.Completion,
    ),
    (
        "/v1/chat/completions",
        chat_schema.ChatRequest,
        "chat",
        "Take a turn in a chat",
        answer.ChatCompletion,
    ),
    (
        "/v1/embeddings",
        schema.EmbeddingRequest,
        "embed",
        "Turn texts into vectors",
        answer.EmbeddingList,
    ),
    (
        "/v1/rerank",
        rerank_schema.RerankRequest,
        "rerank",
        "Sort documents by a query",
        rerank_schema.Ranking,
    ),
    ("/v1/responses", ResponsesRequest, "respond", "Write a response", ResponseObject),
    (
        "/v1/messages",
        MessagesRequest,
        "message",
        "Take a turn in a chat (Anthropic's)",
        MessageAnswer,
    ),
    (
        "/v1/messages/count_tokens",
        CountTokensRequest,
        "countTokens",
        "Count a message's tokens",
        TokenCount,
    ),
    (
        "/tokenize",
        token_schema.TokenizeRequest,
        "tokenize",
        "Show a prompt's tokens",
        token_schema.Tokens,
    ),
    (
        "/detokenize",
        token_schema.DetokenizeRequest,
        "detokenize",
        "Show the text of tokens",
        token_schema.Text,
    ),
    (
        "/apply-template",
        token_schema.TemplateRequest,
        "applyTemplate",
        "Show a chat's text",
        token_schema.Text,
    ),
)
"""Each path with a body, the body, the operation's name, its summary and its answer."""


def describe() -> dict[str, Any]:
    """Return the description in version 3.1 of the OpenAPI Specification."""
    _, schemas = msgspec.json.schema_components(_BODIES, ref_template=_REFERENCE)
    for kind, fields in NEUTRAL.items():
        _add_neutral(schemas[kind.__name__]["properties"], fields)
    version = importlib.metadata.version(APPLICATION)
    return {
        "openapi": "3.1.0",
        "info": {"title": APPLICATION, "version": version},
        "paths": {
            **_PROBES,
            "/v1/models": {"get": _operation("listModels", "List the models", answer.ModelList)},
            "/v1/models/{model_id}": {
                "get": _operation("getModel", "Describe a model", answer.Model)
                | {"parameters": [_MODEL_ID]}
            },
            **{
                path: {"post": _operation(name, summary, answered) | _body(asked)}
                for path, asked, name, summary, answered in _POSTS
            },
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],  # the operator decides whether the API requires a key
    }


def _json(kind: type) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": _reference(kind)}}}


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


_MODEL_ID: Final = {
    "name": "model_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


_PROBES: Final = {
    "/health": {
        "get": {
            "operationId": "getHealth",
            "summary": "Report whether the node serves",
            "security": [],
            "responses": {
                "200": {"description": "It serves", **_json(answer.Health)},
                "5XX": {"description": "It does not serve", **_json(answer.Health)},
            },
        }
    },
    "/livez": {
        "get": {
            "operationId": "getLiveness",
            "summary": "Show that the node is alive",
            "security": [],
            "responses": {
                "200": {
                    "description": "It is alive",
                    "content": {"text/plain": {"schema": {"type": "string"}}},
                }
            },
        }
    },
}
"""The paths that need no key."""
_TYPED: Final = {"type": "object", "required": ["type"]}
_EVENTS: Final[dict[type, dict[str, Any]]] = {
    answer.Completion: {"$ref": _REFERENCE.format(name="Completion")},
    answer.ChatCompletion: {"$ref": _REFERENCE.format(name="ChatChunk")},
    MessageAnswer: _TYPED,
    ResponseObject: _TYPED,
}
"""The content of a stream's events, except errors; the specification has no term for it."""


def _operation(name: str, summary: str, answered: type) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _reference(answered)}}
    if answered in _EVENTS:
        events = {"type": "string", "x-event-data": _EVENTS[answered]}
        content["text/event-stream"] = {"schema": events}
    refused = {"description": "Refused", **_json(schema.ErrorBody)}
    if answered in (MessageAnswer, TokenCount):  # its own routes use Anthropic's form
        either = {"anyOf": [_reference(MessageError), _reference(schema.ErrorBody)]}
        refused = {"description": "Refused", "content": {"application/json": {"schema": either}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "Answered", "content": content},
            "4XX": refused,
            "5XX": {**refused, "description": "Not possible now, or failed"},
        },
    }


def _body(asked: type) -> dict[str, Any]:
    return {"requestBody": {"required": True, **_json(asked)}}


def _add_neutral(properties: dict[str, Any], fields: Mapping[str, Values]) -> None:
    """Add the neutral values of fields that are unsupported, or unsupported beyond these values."""
    for name, values in fields.items():
        neutral = {"enum": [*values, None], "description": "As if the field were not given."}
        if name in properties:
            properties[name]["anyOf"].append(neutral)
        else:
            properties[name] = neutral
