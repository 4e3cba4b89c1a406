"""Server-sent events of an answer, in OpenAI's format."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final

import msgspec
from quart.wrappers.response import ResponseBody

from node.api.http.answer import AnswerWriter, TokenDetails, Usage
from node.api.schema import error_body
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending

_DONE: Final = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


class AnswerBody(ResponseBody):
    """A response body that reads an answer; the request's owner releases the answer."""

    def __init__(self, answer: Answer, writer: AnswerWriter) -> None:
        self._answer = answer
        self._writer = writer

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Start to read."""
        return _Events(self._answer, self._writer)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing."""


class _Events(AsyncIterator[bytes]):
    """Yields the bytes to write at each step; several tokens at once if they are available."""

    def __init__(self, answer: Answer, writer: AnswerWriter) -> None:
        self._answer = answer
        self._writer = writer
        self._opened = False
        self._ended = False

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            delta = await self._answer.receive()
        except RequestError as error:
            self._ended = True
            return _event(error_body(error)) + _DONE
        if isinstance(delta, Ending):
            self._ended = True
            return self._closing(delta)
        return self._opening() + self._pieces([delta, *self._answer.receive_more()])

    def _opening(self) -> bytes:
        first = None if self._opened else self._writer.first()
        self._opened = True
        return _event(first) if first is not None else b""

    def _pieces(self, deltas: list[Delta]) -> bytes:
        return b"".join(_event(self._writer.piece(d.text)) for d in deltas if d.text)

    def _closing(self, ending: Ending) -> bytes:
        written = self._opening() + _event(self._writer.last(ending.finish_reason))
        if self._writer.with_usage:
            written += _event(self._writer.usage(usage_of(ending)))
        return written + _DONE


def usage_of(ending: Ending) -> Usage:
    """Return an answer's token usage."""
    return Usage(
        ending.prompt_tokens,
        ending.generated_tokens,
        ending.prompt_tokens + ending.generated_tokens,
        TokenDetails(ending.cached_tokens),
    )


def _event(content: msgspec.Struct) -> bytes:
    return b"data: " + _encoder.encode(content) + b"\n\n"
