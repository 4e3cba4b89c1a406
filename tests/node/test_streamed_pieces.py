"""A streamed response reaches its reader whole, however the reader takes it."""

import http.client
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import trio_test

from node.api.edge.asgi import SEND_PIECE
from node.api.edge.pace import keep_pace
from shared.runtime.http.server import Endpoint, serve
from tests.guards import strict_guard

PIECES = [b""] + [bytes([65 + number % 26]) * (1 + 997 * number) for number in range(40)]
"""Together more than the kernel keeps for a reader that takes nothing."""


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Send all pieces, each at once, after the whole request has arrived."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/plain")]
    if scope["path"] == "/measured":
        headers.append((b"content-length", str(sum(map(len, PIECES))).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    send_piece = scope.get(SEND_PIECE)
    is_chunked = scope["http_version"] == "1.1" and scope["path"] != "/measured"
    assert is_chunked == (send_piece is not None)
    for piece in PIECES:
        if send_piece is not None and scope["path"] == "/direct":
            await send_piece(piece)
        else:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def read_twice(port: int, path: str, version: int) -> list[bytes]:
    """Return the bodies of two requests, the second on the same connection if it is kept."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client._http_vsn, client._http_vsn_str = version, f"HTTP/{version // 10}.{version % 10}"  # type: ignore[attr-defined]
    bodies = []
    for _ in range(2):
        client.request("GET", path)
        bodies.append(client.getresponse().read())
    client.close()
    return bodies


@pytest.mark.parametrize("path", ["/", "/direct", "/measured"])
@pytest.mark.parametrize("version", [11, 10])
@trio_test
async def test_stream_arrives_whole(path: str, version: int) -> None:
    """Chunked, sent past ASGI, measured or ended by its connection: a body is whole, twice."""
    endpoint = Endpoint(host="127.0.0.1", port=0, connections=3, reader_seconds=30)
    stop = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            application = keep_pace(stream, reader_seconds=30)
            url = await nursery.start(serve, application, endpoint, strict_guard(), stop)
            port = int(url.rpartition(":")[2])
            read = partial(read_twice, port, path, version)
            bodies = await trio.to_thread.run_sync(read)
            stop.set()
    assert bodies == [b"".join(PIECES)] * 2
