"""Server-sent events in OpenAI's format for completions and chats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from node.api.http.answer import AnswerTokenDetails, TokenDetails, Usage
from node.api.http.writer import AnswerWriter
from node.api.logprobs import Log, TokenLog
from node.api.parts.listening import Heard, Listener, Read
from node.api.parts.part import finish_reason
from node.api.schema import error_body
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending
from node.requests.parts import CallBegun, Words
from node.requests.request import Token

_DONE: Final = b"data: [DONE]\n\n"
_NO_WORDS: Final = "\0"
"""Stands for the words in the frame of a chunk; nothing that follows them has this value."""
_encoder = msgspec.json.Encoder()


class TextEvents:
    """Writes the events of a completion or a chat.

    Args:
        writer: Writes the chunks.
        answers: The number of answers to each prompt.
        read: Returns what reads the parts of an answer.
        log: Returns what describes the tokens of an answer; None if that is not wanted.
        running: Whether each chunk has its answer's usage so far.
    """

    def __init__(
        self,
        writer: AnswerWriter,
        answers: int,
        read: Read,
        log: Callable[[], TokenLog] | None = None,
        *,
        running: bool = False,
    ) -> None:
        self._writer = writer
        self._answers = answers
        self._read = read
        self._log = log
        self._running = running
        self._told: dict[int, _Told] = {}

    def opening(self, number: int, answer: Answer) -> bytes:
        """Return the chunk with a chat's role, or with the prompt that precedes a completion."""
        told = _Told(Listener(self._read(answer)), self._log and self._log())
        if self._log is None and not self._running:
            told.frame = _WordsFrame(self._writer, number)
        self._told[number] = told
        usage = self._usage(told, answer)
        if answer.echoed is not None:
            tokens, text = answer.echoed
            return event(self._writer.piece(Words(text), number, usage, told.describe(tokens)))
        first = self._writer.first(number, usage)
        return b"" if first is None else event(first)

    def pieces(self, number: int, answer: Answer, deltas: Sequence[Delta]) -> bytes:
        """Return a chunk for each part."""
        told = self._told[number]
        written = b""
        for delta in deltas:
            told.tokens += delta.tokens
            written += self._parts(number, told, told.listener.feed(delta), answer)
        return written

    def _parts(self, number: int, told: "_Told", heard: list[Heard], answer: Answer) -> bytes:
        written = b""
        for one in heard:
            if told.frame is not None and isinstance(one.part, Words):
                written += told.frame.event(one.part.text)
                continue
            told.is_calling |= isinstance(one.part, CallBegun)
            usage, log = self._usage(told, answer), told.describe(one.tokens)
            written += event(self._writer.piece(one.part, number, usage, log))
        return written

    def ending(self, number: int, answer: Answer, ending: Ending) -> bytes:
        """Return the chunk with the finish reason."""
        told = self._told[number]
        told.ending = ending
        written = self._parts(number, told, told.listener.finish(), answer)
        reason = finish_reason(ending.finish_reason, calls=told.is_calling)
        usage, log = self._usage(told, answer), told.describe(told.listener.rest())
        return written + event(self._writer.last(reason, number, usage, log))

    def closing(self) -> bytes:
        """Return the usage, if it is wanted, and the end mark."""
        if not self._writer.with_usage:
            return _DONE
        told = [self._told[number] for number in sorted(self._told)]
        endings = [one.ending for one in told if one.ending is not None]
        thoughts = sum(one.listener.thought_tokens for one in told)
        return event(self._writer.usage(usage_of(endings, self._answers, thoughts))) + _DONE

    def failure(self, error: RequestError) -> bytes:
        """Return the error and the end mark."""
        return event(error_body(error)) + _DONE

    def _usage(self, told: "_Told", answer: Answer) -> Usage | None:
        """Return an answer's usage so far, if it is wanted."""
        if not self._running:
            return None
        counted = Ending("stop", answer.prompt_tokens, answer.cached_tokens, told.tokens)
        return usage_of([told.ending or counted], 1, told.listener.thought_tokens)


class _WordsFrame:
    """Writes the chunks of an answer that differ in their words only, which most of them do.

    Args:
        writer: Writes the chunks.
        number: The answer's number.
    """

    def __init__(self, writer: AnswerWriter, number: int) -> None:
        whole = event(writer.piece(Words(_NO_WORDS), number))
        self._before, _, self._after = whole.rpartition(_encoder.encode(_NO_WORDS))

    def event(self, words: str) -> bytes:
        """Return the event of the chunk with these words."""
        return self._before + _encoder.encode(words) + self._after


@dataclass
class _Told:
    """What was written of one answer."""

    listener: Listener
    log: TokenLog | None
    frame: _WordsFrame | None = None
    """If all that differs between chunks are their words."""
    tokens: int = 0
    is_calling: bool = False
    ending: Ending | None = None

    def describe(self, tokens: Sequence[Token]) -> Log | None:
        """Return the likelihoods of the next tokens, if they are wanted."""
        return None if self.log is None else self.log.take(tokens)


def usage_of(endings: Sequence[Ending], answers: int = 1, thought_tokens: int = 0) -> Usage:
    """Return the token usage of a response.

    Args:
        endings: The endings of its answers, in order.
        answers: The number of answers to each prompt, which counts once.
        thought_tokens: How many of the tokens were thoughts.
    """
    prompts = endings[::answers]
    prompt_tokens = sum(ending.prompt_tokens for ending in prompts)
    generated_tokens = sum(ending.generated_tokens for ending in endings)
    return Usage(
        prompt_tokens,
        generated_tokens,
        prompt_tokens + generated_tokens,
        TokenDetails(sum(ending.cached_tokens for ending in prompts)),
        AnswerTokenDetails(thought_tokens),
    )


def event(content: msgspec.Struct) -> bytes:
    """Return the event of one chunk."""
    return b"data: " + _encoder.encode(content) + b"\n\n"
