"""Writes answers in the bodies of the OpenAI-compatible API."""

import secrets
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from node.api.http.answer import (
    CallDelta,
    CalledFunction,
    CalledTool,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    Completion,
    CompletionChoice,
    FunctionDelta,
    Usage,
)
from node.api.logprobs import ChatLogprobs, CompletionLogprobs, Log
from node.api.parts.part import Said
from node.requests.parts import CallArguments, CallBegun, Part, Thought, Words


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
