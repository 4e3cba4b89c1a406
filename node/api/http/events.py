"""Server-sent events in OpenAI's format for completions and chats."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from node.api.http.answer import AnswerWriter, TokenDetails, Usage
from node.api.parts.part import CallBegun, Part, PartReader, WordsReader, finish_reason
from node.api.schema import error_body
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending

_DONE: Final = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


class TextEvents:
    """Writes the events of a completion or a chat.

    Args:
        writer: Writes the chunks.
        answers: The number of answers to each prompt.
        read: Returns what reads the parts of one answer.
        running: Whether each chunk has its answer's usage so far.
    """

    def __init__(
        self,
        writer: AnswerWriter,
        answers: int = 1,
        read: Callable[[], PartReader] = WordsReader,
        *,
        running: bool = False,
    ) -> None:
        self._writer = writer
        self._readers = defaultdict[int, PartReader](read)
        self._calling: set[int] = set()
        """The answers with calls."""
        self._answers = answers
        self._running = running
        self._tokens: Counter[int] = Counter()
        self._endings: dict[int, Ending] = {}

    def opening(self, number: int, answer: Answer) -> bytes:
        """Return the chunk with the role, which a completion does not have."""
        first = self._writer.first(number, self._usage(number, answer, 0))
        return b"" if first is None else event(first)

    def pieces(self, number: int, answer: Answer, deltas: Sequence[Delta]) -> bytes:
        """Return a chunk for each part."""
        written = b""
        for delta in deltas:
            usage = self._usage(number, answer, delta.tokens)
            written += self._parts(number, self._readers[number].feed(delta.text), usage)
        return written

    def _parts(self, number: int, parts: list[Part], usage: Usage | None) -> bytes:
        if any(isinstance(part, CallBegun) for part in parts):
            self._calling.add(number)
        return b"".join(event(self._writer.piece(part, number, usage)) for part in parts)

    def ending(self, number: int, answer: Answer, ending: Ending) -> bytes:
        """Return the chunk with the finish reason."""
        del answer
        self._endings[number] = ending
        usage = usage_of([ending]) if self._running else None
        written = self._parts(number, self._readers[number].finish(), usage)
        reason = finish_reason(ending.finish_reason, calls=number in self._calling)
        return written + event(self._writer.last(reason, number, usage))

    def closing(self) -> bytes:
        """Return the usage, if it is wanted, and the end mark."""
        if not self._writer.with_usage:
            return _DONE
        endings = [self._endings[number] for number in sorted(self._endings)]
        return event(self._writer.usage(usage_of(endings, self._answers))) + _DONE

    def _usage(self, number: int, answer: Answer, tokens: int) -> Usage | None:
        """Return an answer's usage after these further tokens, if it is wanted."""
        if not self._running:
            return None
        self._tokens[number] += tokens
        counted = Ending("stop", answer.prompt_tokens, answer.cached_tokens, self._tokens[number])
        return usage_of([counted])

    def failure(self, error: RequestError) -> bytes:
        """Return the error and the end mark."""
        return event(error_body(error)) + _DONE


def usage_of(endings: Sequence[Ending], answers: int = 1) -> Usage:
    """Return the token usage of a response.

    Args:
        endings: The endings of its answers, in order.
        answers: The number of answers to each prompt, which counts once.
    """
    prompts = endings[::answers]
    prompt_tokens = sum(ending.prompt_tokens for ending in prompts)
    generated_tokens = sum(ending.generated_tokens for ending in endings)
    return Usage(
        prompt_tokens,
        generated_tokens,
        prompt_tokens + generated_tokens,
        TokenDetails(sum(ending.cached_tokens for ending in prompts)),
    )


def event(content: msgspec.Struct) -> bytes:
    """Return the event of one chunk."""
    return b"data: " + _encoder.encode(content) + b"\n\n"
