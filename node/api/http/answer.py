"""The response bodies of the OpenAI-compatible API, as in OpenAI's API reference."""

import base64
import secrets
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from node.api.logprobs import ChatLogprobs, CompletionLogprobs, Log
from node.api.parts.part import Said
from node.api.schema import PromptUsage
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words

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


class AnswerWriter:
    """Writes one answer, either as one object or as the chunks of a stream.

    Args:
        model: The model's id.
        created: Unix time of the answer, in whole seconds.
        chat: Whether it is a chat completion.
        with_usage: Whether a stream ends with its usage.
    """

    def __init__(self, model: str, created: int, *, chat: bool, with_usage: bool = False) -> None:
        self.identity = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self.with_usage: Final = with_usage
        self._model = model
        self._created = created
        self._chat = chat

    def whole(
        self, answers: Sequence[tuple[Said, str, Log | None]], usage: Usage
    ) -> Completion | ChatCompletion:
        """Return the complete response.

        Args:
            answers: Each answer, its finish reason, and its likelihoods if they are wanted.
            usage: The tokens of them all.
        """
        numbered = list(enumerate(answers))
        if not self._chat:
            texts = [
                CompletionChoice(said.words, reason, number, _of_completion(log))
                for number, (said, reason, log) in numbered
            ]
            return self._completion(texts, usage)
        return ChatCompletion(
            id=self.identity,
            created=self._created,
            model=self._model,
            choices=[
                ChatChoice(_message(said), said.finish_reason(reason), number, _of_chat(log))
                for number, (said, reason, log) in numbered
            ],
            usage=usage,
        )

    def first(self, number: int = 0, usage: Usage | None = None) -> ChatChunk | None:
        """Return the chunk that opens an answer's stream; completions have none."""
        if not self._chat:
            return None
        return self._chunk(ChatDelta("", "assistant"), None, number, usage, None)

    def piece(
        self, part: Part, number: int = 0, usage: Usage | None = None, log: Log | None = None
    ) -> Completion | ChatChunk:
        """Return a chunk with a part of an answer.

        Args:
            part: The part.
            number: The answer's number.
            usage: The answer's usage so far, if it is wanted.
            log: The likelihoods of the part's tokens, if they are wanted.
        """
        if self._chat:
            return self._chunk(_delta(part), None, number, usage, log)
        text = part.text if isinstance(part, Words) else ""
        choice = CompletionChoice(text, None, number, _of_completion(log))
        return self._completion([choice], usage or self._no_usage)

    def last(
        self,
        finish_reason: str,
        number: int = 0,
        usage: Usage | None = None,
        log: Log | None = None,
    ) -> Completion | ChatChunk:
        """Return the chunk that ends an answer's text, with the tokens that no other one has."""
        if self._chat:
            return self._chunk(ChatDelta(), finish_reason, number, usage, log)
        choice = CompletionChoice("", finish_reason, number, _of_completion(log))
        return self._completion([choice], usage or self._no_usage)

    def usage(self, usage: Usage) -> Completion | ChatChunk:
        """Return the chunk with the usage, which comes last."""
        return self._chat_chunk([], usage) if self._chat else self._completion([], usage)

    @property
    def _no_usage(self) -> UnsetType | None:
        return None if self.with_usage else UNSET

    def _chunk(
        self,
        delta: ChatDelta,
        finish_reason: str | None,
        number: int,
        usage: Usage | None,
        log: Log | None,
    ) -> ChatChunk:
        choice = ChatChunkChoice(delta, finish_reason, number, _of_chat(log))
        return self._chat_chunk([choice], usage or self._no_usage)

    def _chat_chunk(
        self, choices: list[ChatChunkChoice], usage: Usage | UnsetType | None
    ) -> ChatChunk:
        return ChatChunk(
            id=self.identity,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
        )

    def _completion(
        self, choices: list[CompletionChoice], usage: Usage | UnsetType | None
    ) -> Completion:
        return Completion(
            id=self.identity,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
        )


def _of_chat(log: Log | None) -> ChatLogprobs | None:
    return log if isinstance(log, ChatLogprobs) else None


def _of_completion(log: Log | None) -> CompletionLogprobs | None:
    return log if isinstance(log, CompletionLogprobs) else None


def _message(said: Said) -> ChatMessage:
    calls = [
        CalledTool(one.identity, CalledFunction(one.name, one.arguments)) for one in said.calls
    ]
    return ChatMessage(
        None if calls and not said.words else said.words,
        reasoning_content=said.thoughts or UNSET,
        tool_calls=calls or UNSET,
    )


def _delta(part: Part) -> ChatDelta:
    match part:
        case Words(text):
            return ChatDelta(text)
        case Thought(text):
            return ChatDelta(reasoning_content=text)
        case CallBegun(number, name, identity):
            function = FunctionDelta(name, "")
            return ChatDelta(tool_calls=[CallDelta(number, function, identity, "function")])
        case CallArguments(number, text):
            return ChatDelta(tool_calls=[CallDelta(number, FunctionDelta(arguments=text))])
