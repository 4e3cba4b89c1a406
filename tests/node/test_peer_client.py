"""A request to any peer ends in one of two errors or in frames."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import trio_test

from node.routing import wire
from node.routing.client import PeerClient, PeerLostError, PeerRefusedError
from node.routing.signature import Signer
from node.routing.trust import PeerTrust

# httpx2 leaves the generator that reads its connection to the garbage collector if a response is
# not read to its end.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*PoolByteStream:pytest.PytestUnraisableExceptionWarning"
)

OK = b"HTTP/1.1 200 OK\r\n\r\n"
ADMITTED = wire.pack(wire.Admitted())


@asynccontextmanager
async def open_peer(answer: bytes) -> AsyncIterator[str]:
    """Answer every request with these bytes; yield the URL."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            asked = b""
            while not asked.endswith(b"question"):
                asked += await stream.receive_some()
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def ask(url: str) -> list[wire.Frame]:
    """Send a request and read all frames."""
    client = PeerClient(Signer([""]), PeerTrust())
    with trio.fail_after(60):
        async with client.open(), client.ask(url, b"question", {"X-Request-ID": "r"}) as frames:
            return [frame async for frame in frames]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0" * 100,
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 999 ?\r\n\r\n",
        b"HTTP/1.1 204 Empty\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"\xff\xff\xff\xff",
        OK + (2**26).to_bytes(4, "big") + b"x" * 100,
        OK + ADMITTED + b"\0\0\0\3\xc1\xc1\xc1",
        OK + b"\0\0\0\1\xc0",
        OK + b"\0\0\0\2\x92\1",
        OK + wire.pack(wire.Drawn(-1, b"")),
        OK + wire.pack(wire.Vector((math.nan,))),
        OK + wire.pack(wire.Failed(1000, "", "")),
    ],
)
@trio_test
async def test_answer_that_makes_no_sense_is_a_lost_peer(answer: bytes) -> None:
    """An invalid response (status, frame or size) is a lost peer."""
    async with open_peer(answer) as url:
        with pytest.raises(PeerLostError):
            await ask(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "ftp://127.0.0.1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:-1",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://",
        "http://\0",
        "http://127.0.0.1:1/\x7f",
        "http://xn--a\udcff",
        "http://" + "a" * 300,
        "http://127.0.0.1:1",
    ],
)
@trio_test
async def test_address_that_leads_nowhere_is_a_lost_peer(url: str) -> None:
    """An address that leads nowhere is a lost peer."""
    with pytest.raises(PeerLostError):
        await ask(url)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("", None),
        ("9" * 400, None),
        ("inf", None),
        ("nan", None),
        ("-1", None),
        ("²", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)
@trio_test
async def test_retry_after_is_believed_where_it_is_a_number(
    header: str, seconds: float | None
) -> None:
    """`Retry-After` is used only if it is a finite number."""
    head = f"HTTP/1.1 429 Busy\r\nRetry-After: {header}\r\n\r\n".encode("latin-1")
    async with open_peer(head) as url:
        with pytest.raises(PeerRefusedError) as refused:
            await ask(url)
    assert (refused.value.status, refused.value.retry_after_seconds) == (429, seconds)


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"[]", b'{"error": 3}', b'{"error": {"message": [1], "code": 3}}', b"x" * 10**6],
)
@trio_test
async def test_refusal_is_read_whatever_its_body_is(body: bytes) -> None:
    """A refusal counts by its status; a body that is not an error object is ignored."""
    async with open_peer(b"HTTP/1.1 503 Away\r\n\r\n" + body) as url:
        with pytest.raises(PeerRefusedError) as refused:
            await ask(url)
    assert (refused.value.status, refused.value.code) == (503, None)
    assert len(str(refused.value)) < 100


@trio_test
async def test_frames_are_read() -> None:
    """Valid frames are read."""
    frames: list[wire.Frame] = [
        wire.Admitted(),
        wire.Begun(),
        wire.Drawn(7, b"a"),
        wire.Ended("stop", 3, 1),
    ]
    async with open_peer(OK + b"".join(map(wire.pack, frames))) as url:
        assert await ask(url) == frames
