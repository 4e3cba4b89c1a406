"""The response bodies of the OpenAI-compatible API, as in OpenAI's API reference."""

import base64
import struct
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from node.api.logprobs import ChatLogprobs, CompletionLogprobs
from node.api.schema import PromptUsage

OWNER: Final = "distributed-llm"


class TokenDetails(msgspec.Struct, frozen=True):
    """Details of a prompt's tokens."""

    cached_tokens: int
    """Tokens that were still in memory from an earlier request."""


class AnswerTokenDetails(msgspec.Struct, frozen=True):
    """Details of an answer's tokens."""

    reasoning_tokens: int
    """Tokens of what the model thought before it answered."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request and its answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: TokenDetails
    completion_tokens_details: AnswerTokenDetails = AnswerTokenDetails(0)


class CompletionChoice(msgspec.Struct, frozen=True):
    """A completion's text, or a part of it."""

    text: str
    finish_reason: str | None
    index: int = 0
    logprobs: CompletionLogprobs | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A completion, complete or as a chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Unix time in whole seconds."""
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    """In a stream only if requested, and then null except in the last chunk."""


class CalledFunction(msgspec.Struct, frozen=True):
    """A called function, with its arguments as JSON text."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct, frozen=True):
    """A call of a tool."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """The assistant's message."""

    content: str | None
    """Null if the answer is only calls."""
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    """What the model thought before it answered."""
    tool_calls: list[CalledTool] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """A chat's complete answer."""

    message: ChatMessage
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to a call: first the function's name, then pieces of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class CallDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to the call with this index."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to the assistant's message."""

    content: str | UnsetType = UNSET
    role: Literal["assistant"] | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """A part of a chat's answer."""

    delta: ChatDelta
    finish_reason: str | None
    index: int = 0
    logprobs: ChatLogprobs | None = None


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk of a chat completion's stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    """As in `Completion`."""


class Model(msgspec.Struct, frozen=True):
    """A model that is served."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = OWNER
    max_model_len: int | UnsetType = UNSET
    """Tokens in the context of a request, prompt and answer; absent while unknown."""


class ModelList(msgspec.Struct, frozen=True):
    """The models that are served."""

    data: list[Model]
    object: Literal["list"] = "list"


class Embedding(msgspec.Struct, frozen=True):
    """The vector of one text: its numbers, or base64 of them as little-endian 32-bit floats."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


def embedding(index: int, vector: tuple[float, ...], *, packed: bool) -> Embedding:
    """Return the embedding object of one vector."""
    if not packed:
        return Embedding(index, list(vector))
    numbers = struct.pack(f"<{len(vector)}f", *vector)
    return Embedding(index, base64.b64encode(numbers).decode())


class EmbeddingList(msgspec.Struct, frozen=True):
    """The vectors of the texts, in order."""

    model: str
    data: list[Embedding]
    usage: PromptUsage
    object: Literal["list"] = "list"


class Health(msgspec.Struct, frozen=True):
    """Whether the node serves."""

    status: Literal["ok", "unavailable"]
    state: str
    """The node's own state, such as `online` or `draining`."""
    engines: Mapping[str, str]
    """The state of each model."""
    faults: Mapping[str, str] | UnsetType = UNSET
    """Why models cannot be loaded, and since when."""
