"""HTTP to a llama-server on its Unix socket: short calls, and the stream of a completion.

llama-server closes the connection after a streamed answer, so each request has its own. A client
library costs more per streamed token than everything else that the node does for it; h11 alone
takes 7.5 μs per token and half of a short call, the reader here a tenth of that.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import trio

from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.http_reader import HttpReader, InvalidResponseError

_READ_BYTES: Final = 64 * 1024
_BODY_BYTES: Final = 64 * 2**20
"""No short answer is longer: 32,768 tokens with their pieces take 2 MB."""


class Response:
    """An answer whose head has arrived.

    Args:
        reader: Its reader.
        begun: What has arrived of its body.
        stream: The connection.
    """

    def __init__(self, reader: HttpReader, begun: bytes, stream: trio.SocketStream) -> None:
        self.status: Final = reader.status
        self._reader = reader
        self._begun = begun
        self._stream = stream

    async def receive(self) -> bytes:
        """Wait for more of the body and return it; empty at its end."""
        piece, self._begun = self._begun, b""
        while not (piece or self._reader.is_over):
            piece = self._reader.feed(await _receive(self._stream))
        return piece

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            EngineLostError: It is longer than any that is expected.
        """
        body = bytearray()
        while received := await self.receive():
            body += received
            if len(body) > _BODY_BYTES:
                raise EngineLostError(f"an answer of more than {_BODY_BYTES} bytes")
        return bytes(body)


@asynccontextmanager
async def request(socket: str, target: str, body: bytes | None = None) -> AsyncIterator[Response]:
    """Send one request; leaving the block closes the connection.

    Args:
        socket: The path of the server's socket.
        target: The request's path.
        body: JSON; the method is POST with it and GET without.

    Raises:
        EngineLostError: The server cannot be reached or breaks off, also while the body is read.
    """
    try:
        async with await trio.open_unix_socket(socket) as stream:
            yield await _ask(stream, target, body)
    except (OSError, trio.BrokenResourceError, InvalidResponseError) as error:
        raise EngineLostError(str(error) or type(error).__name__) from error


async def call(socket: str, target: str, body: Any = None) -> tuple[int, bytes]:
    """Return the status and the body of a short request; `body` is encoded as JSON.

    Raises:
        EngineLostError: The server cannot be reached, or breaks off.
    """
    encoded = None if body is None else msgspec.json.encode(body)
    async with request(socket, target, encoded) as response:
        return response.status, await response.read()


async def _ask(stream: trio.SocketStream, target: str, body: bytes | None) -> Response:
    method = "GET" if body is None else "POST"
    head = f"{method} {target} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    await stream.send_all(head.encode() + b"\r\n" + (body or b""))
    reader, begun = HttpReader(), b""
    while not reader.status:
        begun = reader.feed(await _receive(stream))
    return Response(reader, begun, stream)


async def _receive(stream: trio.SocketStream) -> bytes:
    """Wait for bytes, and return them; none at the end of the connection."""
    # Trio's `receive_some` first tries in vain, which costs a token of a stream a system call.
    while True:
        await trio.lowlevel.wait_readable(stream.socket)
        with contextlib.suppress(BlockingIOError):
            return os.read(stream.socket.fileno(), _READ_BYTES)
