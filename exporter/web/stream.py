"""The status as server-sent events: `/status/stream`, one event a second."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio

from exporter.status.status import PICTURE_SECONDS, Status
from shared.runtime.http.connection import CONNECTION

STREAM_TYPE: Final = "text/event-stream; charset=utf-8"
STREAMS: Final = 16
"""Open at once; further ones are refused."""
LIFE_SECONDS: Final = 600.0
"""After it a stream ends, and its reader shows its credentials again."""
READER_SECONDS: Final = 10.0
"""How long a reader may leave an event unread; it is then cut off."""
LIMIT: Final = "distributed_llm.limit"
"""The key of a cancel scope in the ASGI scope, whose deadline is that of the response."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class StatusStreams:
    """Sends every reader the same picture; a slow reader does not delay the others.

    Args:
        status: What is sent.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._room = trio.CapacityLimiter(STREAMS)

    @property
    def is_full(self) -> bool:
        """Whether no further stream can be opened."""
        return not self._room.available_tokens

    async def answer(
        self, scope: Scope, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
    ) -> None:
        """Answer one request for the stream. Ends with its reader, or after `LIFE_SECONDS`."""
        async with self._room, trio.open_nursery() as nursery:
            nursery.start_soon(_wait_left, receive, nursery.cancel_scope, name="status reader")
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send_all(scope, send)
            nursery.cancel_scope.cancel()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        end = trio.current_time() + LIFE_SECONDS
        while (now := trio.current_time()) < end:
            scope[LIMIT].deadline = now + READER_SECONDS
            event = b"data: %b\n\n" % self._status.current()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await scope["state"][CONNECTION].wait_read(scope)
            await trio.sleep(PICTURE_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_left(receive: Receive, stream: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.cancel()
