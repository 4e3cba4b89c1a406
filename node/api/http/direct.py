"""Sends the pieces of a streamed body straight to the connection, once its head is sent.

On the usual way, a piece passes a dozen calls of Quart, hypercorn and h11, which cost a streamed
token more than the rest of its response.
"""

from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final

from quart.wrappers.response import ResponseBody

from node.api.edge.asgi import SEND_PIECE, SendPiece
from node.api.http.stream import BatchBody, PiecesBody


class DirectBody(ResponseBody):
    """A body whose pieces are sent directly, if its connection allows that.

    Args:
        body: Yields the pieces.
        scope: The ASGI scope of the request.
    """

    def __init__(self, body: PiecesBody | BatchBody, scope: Mapping[str, Any]) -> None:
        self._body: Final = body
        self._scope: Final = scope

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Start to read, after the response's head."""
        pieces = await self._body.__aenter__()
        send: SendPiece | None = self._scope.get(SEND_PIECE)
        return pieces if send is None else _Sent(pieces, send)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the body."""
        await self._body.__aexit__(kind, error, trace)


class _Sent(AsyncIterator[bytes]):
    """Sends every piece and yields none."""

    def __init__(self, pieces: AsyncIterator[bytes], send: SendPiece) -> None:
        self._pieces = pieces
        self._send = send

    async def __anext__(self) -> bytes:
        async for piece in self._pieces:
            await self._send(piece)
        raise StopAsyncIteration
