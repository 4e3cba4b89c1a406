"""One client's connection: its state, and a stream that gives up on a client that stops reading.

hypercorn shields its socket's send from cancellation. Only the stream below it can therefore cut
off a client that reads nothing.
"""

import contextlib
import errno
import math
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final

import h2.connection
import h2.exceptions
import trio
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer

_Scope = MutableMapping[str, Any]
Successor = Callable[[trio.abc.Stream], Awaitable[None]]
"""Takes over a connection's bytes after HTTP; ends with the connection or when it is cancelled."""

CONNECTION: Final = "distributed_llm.connection"
"""The key of the connection in the ASGI scope's `state`."""
_PIECE_BYTES: Final = 64 * 2**10
"""What a client must take within the patience: a slow reader makes progress, a stopped one does
not."""
_UNREAD_BYTES: Final = 32 * 2**10
"""Limit of the bytes that wait in memory for an HTTP/2 client beyond its flow-control window."""
_CANCEL: Final = 8
"""RFC 9113, section 7: the stream is no longer needed."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Closes at once and drops unread data, so that the kernel does not keep it."""


class PacedStream(trio.abc.HalfCloseableStream):
    """A socket's stream that breaks when the client takes nothing for too long.

    Args:
        stream: The client's stream.
        patience_seconds: How long each piece may wait for the client.
    """

    def __init__(self, stream: trio.SocketStream, patience_seconds: float) -> None:
        self.socket = stream.socket
        """hypercorn reads the addresses from it."""
        self.stalled = False
        """Whether the stream was broken because the client took nothing for too long."""
        self._stream = stream
        self._patience_seconds = patience_seconds

    def send_nowait(self, data: bytes) -> int:
        """Send what the kernel takes at once, without a checkpoint. Return the number of bytes.

        It is 0 for a broken or closed connection, which `send_all` reports.
        """
        try:
            return os.write(self.socket.fileno(), data)
        except OSError:  # no room, or broken
            return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send the bytes piece by piece.

        Raises:
            trio.BrokenResourceError: The client disconnected, or took nothing for too long.
        """
        with memoryview(data) as view:
            for start in range(0, len(view), _PIECE_BYTES):
                await self._send_piece(view[start : start + _PIECE_BYTES])

    async def _send_piece(self, piece: memoryview) -> None:
        with piece, trio.move_on_after(self._patience_seconds) as patience:
            try:
                await self._stream.send_all(piece)
            except trio.BrokenResourceError as error:
                self._note(error)
                raise
        if patience.cancelled_caught:
            self.stalled = True
            self.abort()
            raise trio.BrokenResourceError("the client has stopped reading")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait without a limit until there is room."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive the available bytes."""
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self._note(error)
            raise

    async def send_eof(self) -> None:
        """Signal that no more data follows."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close at once and drop what the client has not read. Wakes every waiting task."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.socket.close()

    def be_patient(self) -> None:
        """Wait without a limit from now on."""
        self._patience_seconds = math.inf

    def _note(self, error: trio.BrokenResourceError) -> None:
        # The kernel waits for acknowledgements as long as this stream waits for room
        # (TCP_USER_TIMEOUT).
        cause = error.__cause__
        self.stalled |= isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT


class Connection:
    """The connection of a request, which the application can inspect and close.

    Args:
        stream: The connection's bytes.
        address: The client's address.
    """

    def __init__(self, stream: PacedStream, address: str) -> None:
        self.stream = stream
        self.address = address
        self.certificate = ""
        """A digest of the client's verified certificate; empty without one."""
        self.names: frozenset[str] = frozenset()
        """The subject alternative names in that certificate."""
        self.server: TCPServer | None = None
        """hypercorn's protocol object, once there is one."""
        self.is_reserved = False
        """Whether it was admitted beyond the limit and may only send probes."""
        self.requests = 0
        """The number of requests in progress."""
        self.idle_since = trio.current_time()
        self.successor: Successor | None = None
        """What owns the connection's bytes once HTTP on it has ended."""
        self.http = trio.CancelScope()
        """HTTP on this connection, with the requests in progress."""

    def hand_over(self, successor: Successor) -> None:
        """End HTTP here, with the calling request, in favour of a protocol of one's own.

        Only for an HTTP/1 request with the header `Upgrade`, after which hypercorn reads no more.
        The successor sends the response, usually 101.
        """
        self.successor = successor
        self.stream.be_patient()
        self.http.cancel()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count a request while the block runs, so that the connection is not considered idle."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.idle_since = trio.current_time()

    async def send_chunk(self, piece: bytes) -> None:
        """Send a piece of a response whose head said that it is chunked (RFC 9112, section 7.1).

        It passes hypercorn's and h11's layers by, which keep no state between the pieces of a body.
        """
        if not piece or self.server is None:  # an empty chunk would end the body
            return
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        sent = self.send_nowait(chunk)
        if sent < len(chunk):
            await self.server.protocol_send(RawData(chunk[sent:]))

    def send_nowait(self, data: bytes) -> int:
        """Send what there is room for. Return the number of bytes; the rest has to wait.

        That saves hypercorn's lock and scope and two rounds of Trio's loop for each token.
        """
        if self.server is None or self.server.send_lock.locked():
            return 0
        stream: object = self.server.stream
        return self.stream.send_nowait(data) if stream is self.stream else 0  # TLS encrypts first

    async def wait_read(self, scope: _Scope) -> None:
        """Wait until an HTTP/2 client has taken its pending data, if there is much of it.

        hypercorn should do this, but 0.18 does not for a stream without a window.
        """
        protocol, number = self._find(scope)
        waiting = protocol.stream_buffers.get(number) if protocol is not None else None
        if waiting is not None and len(waiting.buffer) > _UNREAD_BYTES:
            await waiting.drain()

    async def reset(self, scope: _Scope) -> None:
        """End the HTTP/2 stream of a request whose response was aborted.

        hypercorn leaves it open forever. Over HTTP/1 hypercorn closes the connection, so there is
        nothing to do.
        """
        protocol, number = self._find(scope)
        if protocol is None:
            return
        try:
            protocol.connection.reset_stream(number, error_code=_CANCEL)
        except h2.exceptions.ProtocolError:  # the client ended it first
            return
        await protocol.send(RawData(data=protocol.connection.data_to_send()))
        if (waiting := protocol.stream_buffers.get(number)) is not None:
            await waiting.close()
            protocol.priority.unblock(number)
            await protocol.has_data.set()

    def _find(self, scope: _Scope) -> tuple[H2Protocol | None, int]:
        """Find the HTTP/2 stream of a request; None over HTTP/1 or if the stream has ended.

        This uses hypercorn's own objects, because ASGI has no message to reset a stream or to query
        its unread bytes, and no upstream issue asks for one. hypercorn's version is pinned exactly.
        """
        protocol = self.server.protocol.protocol if self.server is not None else None
        if isinstance(protocol, H2Protocol):
            for number, stream in protocol.streams.items():
                if stream.scope is scope:
                    return protocol, number
        return None, 0
