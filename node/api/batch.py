"""Several requests of one caller: a few at a time are in the queue, so that others get turns."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import trio

from node.errors import QueueFullError, RequestError
from node.requests.answer import Answer
from node.requests.request import InferenceRequest

_AT_ONCE: Final = 8
"""Requests of one batch in the queue or in an engine. A guess: enough to use an engine's slots,
without filling a queue with one caller's requests."""

Admit = Callable[[InferenceRequest], AbstractContextManager[Answer]]
Read = Callable[[int, Answer], Awaitable[None]]


class Batch:
    """Answers several requests in their order, each as a request of its own.

    Args:
        wanted: The requests.
        admit: Admits one of them.
    """

    def __init__(self, wanted: Sequence[InferenceRequest], admit: Admit) -> None:
        self._waiting = deque(enumerate(wanted))
        self._admit = admit
        self._workers = min(_AT_ONCE, len(self._waiting))
        self._error: RequestError | None = None

    async def run(self, read: Read) -> None:
        """Answer all requests. Ends when each answer is read.

        Args:
            read: Reads the answer to the request with this number.

        Raises:
            RequestError: A request failed; the others were cancelled.
        """
        async with trio.open_nursery() as nursery:
            for number in range(self._workers):
                nursery.start_soon(self._work, read, nursery.cancel_scope, name=f"batch {number}")
        if self._error is not None:
            raise self._error

    async def _work(self, read: Read, scope: trio.CancelScope) -> None:
        while self._waiting and self._error is None:
            number, request = self._waiting.popleft()
            answer: Answer | None = None
            try:
                with self._admit(request) as answer:
                    await read(number, answer)
            except RequestError as error:
                if self._can_wait(error, answer):
                    self._waiting.appendleft((number, request))
                    break
                self._error = self._error or error
                scope.cancel()
        self._workers -= 1

    def _can_wait(self, error: RequestError, answer: Answer | None) -> bool:
        """Return whether another worker can ask again later: the queue is full of other requests.

        A worker less remains, so that the batch fails if it has no request in the queue.
        """
        is_begun = answer is not None and bool(answer.tokens)
        return isinstance(error, QueueFullError) and not is_begun and self._workers > 1
