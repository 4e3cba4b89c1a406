"""One client's connection: its stream, which waits only so long for its reader, and its client.

hypercorn shields its socket's send from cancellation, so that a client that reads nothing can be
cut only from below, by the stream that hypercorn writes to.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, MutableMapping
from typing import Any, Final

import h2.connection
import h2.exceptions
import trio
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer

_Scope = MutableMapping[str, Any]

CONNECTION: Final = "distributed_llm.connection"
"""Key of the ASGI scope's `state` where the connection is found."""
_PIECE_BYTES: Final = 64 * 2**10
"""What must be taken within the patience: a slow reader makes progress, one that stopped none."""
_UNREAD_BYTES: Final = 32 * 2**10
"""What may wait in memory for an HTTP/2 client, beside what its window lets through."""
_CANCEL: Final = 8
"""RFC 9113, section 7: the stream is no longer needed."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Close at once and drop what the client never read, instead of keeping it in the kernel."""


class PacedStream(trio.abc.HalfCloseableStream):
    """A socket's stream that breaks when its reader takes nothing for too long.

    Args:
        stream: The client's.
        patience_seconds: How long each piece may wait to be taken.
    """

    def __init__(self, stream: trio.SocketStream, patience_seconds: float) -> None:
        self.socket = stream.socket
        """For hypercorn, which asks it for the addresses."""
        self.stalled = False
        """Whether the reader took nothing for so long that the stream was broken."""
        self._stream = stream
        self._patience_seconds = patience_seconds

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, piece by piece.

        Raises:
            trio.BrokenResourceError: The client is gone, or took nothing for too long.
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
            raise trio.BrokenResourceError("the client reads nothing")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room, for as long as it takes."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what is there."""
        try:
            return await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError as error:
            self._note(error)
            raise

    async def send_eof(self) -> None:
        """Say that no more is sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the socket."""
        await self._stream.aclose()

    def abort(self) -> None:
        """Close at once, and drop what the client never read; every waiting task is woken."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.socket.close()

    def _note(self, error: trio.BrokenResourceError) -> None:
        # The kernel waits for acknowledgements as long as we wait for room (TCP_USER_TIMEOUT).
        cause = error.__cause__
        self.stalled |= isinstance(cause, OSError) and cause.errno == errno.ETIMEDOUT


class Connection:
    """The connection of a request, for the application to ask and to act on.

    Args:
        stream: The connection's bytes.
        address: The client's.
    """

    def __init__(self, stream: PacedStream, address: str) -> None:
        self.stream = stream
        self.address = address
        self.certificate = ""
        """A digest of the client's verified certificate; empty where it showed none."""
        self.server: TCPServer | None = None
        """hypercorn's side of it, once there is one."""
        self.is_reserved = False
        """Whether it was let in beyond the limit, for probes only."""
        self.requests = 0
        """How many are in work."""
        self.idle_since = trio.current_time()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count a request for as long as the block runs: the connection is not idle."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.idle_since = trio.current_time()

    async def wait_read(self, scope: _Scope) -> None:
        """Wait until an HTTP/2 client has taken what waits for it, where that is much.

        hypercorn means to, but 0.18 forgets it for a stream without a window.
        """
        protocol, number = self._find(scope)
        waiting = protocol.stream_buffers.get(number) if protocol is not None else None
        if waiting is not None and len(waiting.buffer) > _UNREAD_BYTES:
            await waiting.drain()

    async def reset(self, scope: _Scope) -> None:
        """End a request's HTTP/2 stream whose response was broken off.

        hypercorn leaves it open for ever. Over HTTP/1 it closes the connection, and nothing is
        left to do.
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
        """Find the HTTP/2 stream of a request; none over HTTP/1, or where it has ended.

        hypercorn's own objects, for want of ASGI messages that reset a stream and that say how much
        of it is unread; no issue upstream asks for them. Its version is pinned exactly.
        """
        protocol = self.server.protocol.protocol if self.server is not None else None
        if isinstance(protocol, H2Protocol):
            for number, stream in protocol.streams.items():
                if stream.scope is scope:
                    return protocol, number
        return None, 0
