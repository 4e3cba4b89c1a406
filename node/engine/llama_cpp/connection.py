"""HTTP to a llama-server on its Unix socket: short calls, and the stream of a completion.

llama-server closes the connection after a streamed answer, so each request has its own. h11 is used
directly: a client library costs more per streamed token than everything else that the node does for
it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import h11
import msgspec
import trio

from node.engine.llama_cpp.errors import EngineLostError

_READ_BYTES: Final = 64 * 1024
_BODY_BYTES: Final = 64 * 2**20
"""No short answer is longer: 32,768 tokens with their pieces take 2 MB."""


class Response:
    """An answer whose head has arrived.

    Args:
        status: Its HTTP status.
        http: The connection's state.
        stream: The connection.
    """

    def __init__(self, status: int, http: h11.Connection, stream: trio.SocketStream) -> None:
        self.status: Final = status
        self._http = http
        self._stream = stream

    async def receive(self) -> bytes:
        """Wait for more of the body and return it; empty at its end."""
        pieces: list[bytes] = []
        event = await _next_event(self._http, self._stream)
        while isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
            event = self._http.next_event()
        return b"".join(pieces)

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
    except (OSError, trio.BrokenResourceError, h11.ProtocolError) as error:
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
    http = h11.Connection(h11.CLIENT)
    headers = [("Host", "engine"), ("Connection", "close")]
    if body is not None:
        headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    method = "GET" if body is None else "POST"
    sent = http.send(h11.Request(method=method, target=target, headers=headers)) or b""
    if body is not None:
        sent += http.send(h11.Data(data=body)) or b""
    await stream.send_all(sent + (http.send(h11.EndOfMessage()) or b""))
    while not isinstance(event := await _next_event(http, stream), h11.Response):
        pass  # an informational answer
    return Response(event.status_code, http, stream)


async def _next_event(http: h11.Connection, stream: trio.SocketStream) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
    return event
