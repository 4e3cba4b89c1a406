"""Bodies of streamed responses: one answer, or several at once, in the events of any protocol."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol

import trio
from quart.wrappers.response import ResponseBody

from node.api.batch import Batch
from node.errors import RequestError
from node.requests.answer import Answer, Delta, Ending


class EventWriter(Protocol):
    """Writes the server-sent events of one response; `number` is the place of an answer in it."""

    def opening(self, number: int, answer: Answer) -> bytes:
        """Return the events that precede an answer's first piece."""

    def pieces(self, number: int, answer: Answer, deltas: Sequence[Delta]) -> bytes:
        """Return the events of an answer's next pieces."""

    def ending(self, number: int, answer: Answer, ending: Ending) -> bytes:
        """Return the events of an answer's end."""

    def closing(self) -> bytes:
        """Return the events after the end of all answers."""

    def failure(self, error: RequestError) -> bytes:
        """Return the events that end a response that failed."""


class PiecesBody(ResponseBody):
    """A response body of pieces that are ready to write.

    It ends nothing: the request's owner releases the answer that they are made of.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Start to read."""
        return self._pieces

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing."""


def answer_body(answer: Answer, writer: EventWriter) -> PiecesBody:
    """Return the response body that streams one answer."""
    return PiecesBody(_Events(answer, writer))


class _Events(AsyncIterator[bytes]):
    """Yields the bytes to write at each step; several tokens at once if they are available."""

    def __init__(self, answer: Answer, writer: EventWriter) -> None:
        self._steps = _Steps(0, answer, writer)
        self._writer = writer
        self._failed = False

    async def __anext__(self) -> bytes:
        if self._failed or self._steps.ended:
            raise StopAsyncIteration
        try:
            written = await self._steps.take()
        except RequestError as error:
            self._failed = True
            return self._writer.failure(error)
        return written + self._writer.closing() if self._steps.ended else written


class _Steps:
    """Reads one answer step by step."""

    def __init__(self, number: int, answer: Answer, writer: EventWriter) -> None:
        self.ended = False
        self._number = number
        self._answer = answer
        self._writer = writer
        self._opened = False

    async def take(self) -> bytes:
        """Wait for the next pieces or the end. Return their events.

        Raises:
            RequestError: The answer ended in an error.
        """
        answer, number, writer = self._answer, self._number, self._writer
        received = await answer.receive_several()
        opening = b"" if self._opened else writer.opening(number, answer)
        self._opened = True
        if isinstance(received, Ending):
            self.ended = True
            return opening + writer.ending(number, answer, received)
        return opening + writer.pieces(number, answer, received)


class BatchBody(ResponseBody):
    """A response body that reads several answers, whose pieces mix as they arrive."""

    def __init__(self, batch: Batch, writer: EventWriter) -> None:
        self._batch = batch
        self._writer = writer
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Start to read. What a slow client has not read yet stays in the answers."""
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        send, receive = trio.open_memory_channel[bytes](0)
        nursery.start_soon(self._run, send, name="batch")
        return receive

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what is not answered yet."""
        await self._stack.__aexit__(kind, error, trace)

    async def _run(self, send: trio.MemorySendChannel[bytes]) -> None:
        async def read(number: int, answer: Answer) -> None:
            steps = _Steps(number, answer, self._writer)
            while not steps.ended:
                await send.send(await steps.take())

        with send:
            try:
                await self._batch.run(read)
            except RequestError as error:
                await send.send(self._writer.failure(error))
            else:
                await send.send(self._writer.closing())
