"""Ends requests that take too long: the body must arrive and the response be read in time."""

import logging
from collections.abc import Iterator
from typing import Any, Final

import trio

from node.api.edge.asgi import (
    CUT,
    SEND_PIECE,
    Application,
    Message,
    Receive,
    Scope,
    Send,
    connection_of,
    send_error,
)
from node.errors import InvalidRequestError

BODY_SECONDS: Final = 60.0
"""Time limit for the whole body: 8 MiB at 1.1 Mbit/s."""
_PIECE_BYTES: Final = 16 * 2**10
_LEFTOVER_SECONDS: Final = 5.0
"""How long the unwanted rest of a body is read, so that its sender reads the response."""
_LEFTOVER_BYTES: Final = 16 * 2**20
_CLOSING_SECONDS: Final = 1.0
"""Time limit for the last send after the client has disconnected."""

_log = logging.getLogger(__name__)


class TooSlowError(InvalidRequestError):
    """The request's body did not arrive in time."""

    status = 408
    code = "request_timeout"


def keep_pace(application: Application, reader_seconds: float) -> Application:
    """Limit how long a client may take.

    Args:
        application: Answers the requests.
        reader_seconds: Time limit for the client to read each piece of the response.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, receive, send, reader_seconds)
        await exchange.run(application)

    return wrapped


class _Exchange:
    """One request and its response, between hypercorn and the application."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        reader_seconds: float,
    ) -> None:
        self._scope = scope
        self._connection = connection_of(scope)
        self._receive = receive
        self._send = send
        self._reader_seconds = reader_seconds
        self._body_deadline = trio.current_time() + BODY_SECONDS
        self._body_read = False
        self._late = False
        self._left = False
        self._started = False
        self._with_trailers = False
        self._finished = False
        self._cut = False
        self._application_scope = trio.CancelScope()
        self._leftover_scope = trio.CancelScope()
        self._last_scope = trio.CancelScope(shield=True)

    async def run(self, application: Application) -> None:
        """Run the application, then complete what it left undone."""
        with self._application_scope:
            await application(self._scope, self._receive_in_time, self._send_in_time)
        if self._late and not self._started:
            error = TooSlowError("the request's body did not arrive in time")
            await send_error(self._scope, self._send_in_time, error)
        elif self._started and not self._finished:
            self._tell_cut()
            if self._connection is not None:
                await self._connection.reset(self._scope)

    def _tell_cut(self) -> None:
        connection = self._connection
        stalled = connection is not None and connection.stream.stalled
        if stalled or (self._cut and not self._left):
            self._scope[CUT] = True
            _log.warning(
                "%s read nothing for %s s: its response was cut off",
                "a client" if connection is None else connection.address,
                self._reader_seconds,
            )

    async def _receive_in_time(self) -> Message:
        if self._body_read:
            return self._noted(await self._receive())
        with trio.CancelScope(deadline=self._body_deadline):
            return self._noted(await self._receive())
        self._late = True
        return {"type": "http.disconnect"}

    def _noted(self, message: Message) -> Message:
        if message["type"] == "http.disconnect":
            self._body_read = self._left = True
            self._hasten()
        elif not message.get("more_body", False):
            self._body_read = True
        if self._body_read:
            self._leftover_scope.cancel()
        return message

    def _hasten(self) -> None:
        soon = trio.current_time() + _CLOSING_SECONDS
        self._last_scope.deadline = min(self._last_scope.deadline, soon)

    async def _send_in_time(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self._with_trailers = message.get("trailers", False)
        if not self._ends(message):
            for piece in _pieces(message):
                await self._send_piece(piece)
            self._note_chunked(message)
            return
        if message.get("body"):
            for piece in _pieces({**message, "more_body": True}):
                await self._send_piece(piece)
            message = {**message, "body": b""}
        await self._send_last(message)

    def _note_chunked(self, message: Message) -> None:
        """After the head of a body in chunks, let its pieces go straight to the connection.

        Its stream breaks if a client reads nothing, so a piece needs no limit here.
        """
        is_head = message["type"] == "http.response.start"
        if is_head and self._connection is not None and _is_chunked(self._scope, message):
            self._scope[SEND_PIECE] = self._connection.send_chunk

    def _ends(self, message: Message) -> bool:
        if message["type"] == "http.response.trailers":
            return not message.get("more_trailers", False)
        is_body = message["type"] == "http.response.body"
        return is_body and not message.get("more_body", False) and not self._with_trailers

    async def _send_piece(self, message: Message) -> None:
        with trio.move_on_after(self._reader_seconds) as patience:
            await self._send(message)
            if self._connection is not None:
                await self._connection.wait_read(self._scope)
        if patience.cancelled_caught:
            self._end_short()
            await trio.lowlevel.checkpoint()

    async def _send_last(self, message: Message) -> None:
        """Send the end of the response.

        The send is shielded: Quart-Trio cancels a request while hypercorn is still inside that
        send, and then hypercorn neither closes a `Connection: close` connection nor starts the
        keep-alive timer. The rest of an unread body is read at the same time, because hypercorn
        would wait forever to deliver it.
        """
        with self._last_scope:
            if not self._body_read:
                await self._read_leftover()
            self._last_scope.deadline = trio.current_time() + self._reader_seconds
            if self._left:
                self._hasten()
            await self._send_while_discarding(message)
            self._finished = True
        if not self._finished:
            self._end_short()

    def _end_short(self) -> None:
        self._cut = True
        self._application_scope.cancel()

    async def _send_while_discarding(self, message: Message) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._discard, name="leftover body")
            await self._send(message)
            nursery.cancel_scope.cancel()

    async def _read_leftover(self) -> None:
        taken = 0
        self._leftover_scope.deadline = trio.current_time() + _LEFTOVER_SECONDS
        with self._leftover_scope:
            while taken < _LEFTOVER_BYTES:  # until the body's end, which cancels the scope
                taken += len(self._noted(await self._receive()).get("body", b""))

    async def _discard(self) -> None:
        """Keep reading until the client has disconnected."""
        while not self._left:
            self._noted(await self._receive())


def _is_chunked(scope: Scope, start: Message) -> bool:
    """Return whether the body of this response is sent in chunks (h11, `Connection.send`)."""
    has_body = scope["method"] != "HEAD" and start["status"] == 200
    has_length = any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
    return scope.get("http_version") == "1.1" and has_body and not has_length


def _pieces(message: Message) -> Iterator[Message]:
    """Split a message with a long body into pieces that a slow client can read one by one."""
    body: Any = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        yield message
        return
    for start in range(0, len(body), _PIECE_BYTES):
        yield {**message, "body": body[start : start + _PIECE_BYTES]}
