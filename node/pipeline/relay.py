"""Passes bytes between two connections, with as little work for each message as possible.

A split model waits for several messages a token, one after the other, some of them of a megabyte.
Trio's own streams pass the scheduler two or three times a message; here it is once, and not at all
while there is more to read.
"""

import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import trio

_BUFFER_BYTES: Final = 256 * 2**10
"""What waits here in each direction; the kernel's buffers add about as much."""
_TURNS: Final = 16
"""Messages after which other tasks get a turn."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class End(Protocol):
    """One of the two connections."""

    async def receive(self) -> memoryview:
        """Wait for bytes and return them; empty at the end. Valid until the next call."""

    async def send(self, piece: memoryview) -> None:
        """Send all the bytes."""

    def reset(self) -> None:
        """Close at once; the other side gets an error, not the end of a stream."""


class _HasSocket(Protocol):
    @property
    def socket(self) -> trio.socket.SocketType: ...


def open_end(stream: trio.abc.Stream) -> End:
    """Return the end for a stream over TCP, with or without TLS."""
    if isinstance(stream, trio.SSLStream):
        return _TlsEnd(stream, _socket_of(stream.transport_stream))
    return _PlainEnd(_socket_of(stream))


def _socket_of(stream: object) -> trio.socket.SocketType:
    found: _HasSocket = stream  # type: ignore[assignment]  # SocketStream and PacedStream have it
    found.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return found.socket


async def relay(near: End, far: End, note: Callable[[int, int], None]) -> End:
    """Pass bytes both ways until an end closes; then reset both. Return the one that closed.

    Args:
        near: One end.
        far: The other.
        note: Called with the bytes that went from near to far, and from far to near.
    """
    closed: list[End] = []

    async def pump(source: End, sink: End, count: Callable[[int], None]) -> None:
        closed.append(await _pump(source, sink, count))
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far, lambda size: note(size, 0), name="tunnel out")
            nursery.start_soon(pump, far, near, lambda size: note(0, size), name="tunnel in")
    finally:
        near.reset()
        far.reset()
    return closed[0]


async def _pump(source: End, sink: End, count: Callable[[int], None]) -> End:
    """Pass bytes one way. Return the end that closed or broke."""
    turns = 0
    while True:
        try:
            piece = await source.receive()
        except _BROKEN:
            return source
        if not piece:
            return source
        try:
            await sink.send(piece)
        except _BROKEN:
            return sink
        count(len(piece))
        turns += 1
        if turns % _TURNS == 0:
            await trio.lowlevel.checkpoint()


def _reset(closing: trio.socket.SocketType) -> None:
    if closing.fileno() >= 0:
        closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        closing.close()


class _PlainEnd:
    def __init__(self, owned: trio.socket.SocketType) -> None:
        self._socket = owned
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def receive(self) -> memoryview:
        while True:
            try:
                size = os.readv(self._socket.fileno(), [self._buffer])
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
            else:
                return self._buffer[:size]

    async def send(self, piece: memoryview) -> None:
        while piece:
            try:
                piece = piece[os.write(self._socket.fileno(), piece) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    def reset(self) -> None:
        _reset(self._socket)


class _TlsEnd:
    """Encrypts with the state of a stream's handshake, but without the stream.

    trio 0.35 reads 16 KiB at a time, a record, and passes the scheduler for each: a megabyte took
    ten times as long. What it keeps is not public; the tests over TLS cover what is used here.
    """

    def __init__(
        self, stream: "trio.SSLStream[trio.abc.Stream]", owned: trio.socket.SocketType
    ) -> None:
        self._tls: ssl.SSLObject = stream._ssl_object  # noqa: SLF001
        self._incoming: ssl.MemoryBIO = stream._incoming  # noqa: SLF001
        self._outgoing: ssl.MemoryBIO = stream._outgoing  # noqa: SLF001
        self._encrypted = _PlainEnd(owned)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def receive(self) -> memoryview:
        while not (size := self._decrypt()):
            encrypted = await self._encrypted.receive()
            if not encrypted:
                return encrypted
            self._incoming.write(encrypted)
        return self._buffer[:size]

    def _decrypt(self) -> int:
        """Decrypt the whole records that have arrived, as far as they fit. Return their size."""
        size = 0
        with suppress(ssl.SSLWantReadError):
            while size < _BUFFER_BYTES:
                read: Any = self._tls.read(_BUFFER_BYTES - size, self._buffer[size:])
                if not read:
                    break
                size += read
        return size

    async def send(self, piece: memoryview) -> None:
        self._tls.write(piece)
        await self._encrypted.send(memoryview(self._outgoing.read()))

    def reset(self) -> None:
        self._encrypted.reset()
