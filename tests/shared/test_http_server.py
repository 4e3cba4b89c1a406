"""The HTTP server of both processes: its accept loop and its limit of connections."""

import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import trio_test

from shared.runtime.http import room
from shared.runtime.http.connection import CONNECTION
from shared.runtime.http.server import Endpoint, serve
from tests.guards import strict_guard

LIMIT_SECONDS = 30.0
PLACES = 3
REQUEST = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
UPGRADE = b"GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Application:
    """Answer with the path; `/busy` only once it is released, and `/odd` with an error."""

    def __init__(self) -> None:
        self.busy = 0
        self.release = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/busy":
            self.busy += 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_client, receive, nursery.cancel_scope)
                await self.release.wait()
                nursery.cancel_scope.cancel()
        if scope["path"] == "/upgrade":
            scope["state"][CONNECTION].hand_over(_shout)
            await trio.sleep_forever()
        if scope["path"] == "/odd":
            raise ValueError("odd")
        crowded = b"reserved" if scope["state"][CONNECTION].is_reserved else b"ordinary"
        headers = [(b"content-length", str(len(crowded)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": crowded, "more_body": False})


async def _shout(stream: trio.abc.Stream) -> None:
    """Speak another protocol than HTTP: send back what comes, in capitals."""
    await stream.send_all(SWITCHED)
    while received := await stream.receive_some():
        await stream.send_all(bytes(received).upper())


async def _watch_client(receive: Any, work: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.cancel()


class Served:
    """A running server and its clients."""

    def __init__(self, application: Application, port: int, stop: trio.Event) -> None:
        self.application = application
        self.stop = stop
        self.clients: list[trio.socket.SocketType] = []
        self._port = port

    async def connect(self, host: str = "127.0.0.1") -> trio.SocketStream:
        """Connect from an address of this machine."""
        client = trio.socket.socket()
        self.clients.append(client)
        await client.bind((host, 0))
        await client.connect(("127.0.0.1", self._port))
        return trio.SocketStream(client)

    async def work(self, count: int) -> list[trio.SocketStream]:
        """Open connections with one request in progress on each."""
        return [await self._work() for _ in range(count)]

    async def _work(self) -> trio.SocketStream:
        before = self.application.busy
        client = await self.connect()
        await client.send_all(REQUEST % b"busy")
        while self.application.busy == before:  # noqa: ASYNC110
            await trio.sleep(0.01)
        return client


@asynccontextmanager
async def served(connections: int = PLACES) -> AsyncIterator[Served]:
    """Serve the application until the block ends."""
    application, stop = Application(), trio.Event()
    endpoint = Endpoint(host="127.0.0.1", port=0, connections=connections, reader_seconds=5)
    with trio.fail_after(LIMIT_SECONDS):
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(serve, application, endpoint, strict_guard(), stop)
            server = Served(application, int(url.rpartition(":")[2]), stop)
            try:
                yield server
            finally:
                for client in server.clients:
                    client.close()
                stop.set()


async def ask(client: trio.SocketStream, path: bytes = b"") -> bytes:
    """Send one request and return the whole response; empty if the connection is closed."""
    try:
        await client.send_all(REQUEST % path)
        return await read(client)
    except trio.BrokenResourceError:
        return b""


async def read(client: trio.SocketStream) -> bytes:
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.endswith((b"reserved", b"ordinary")):
        received = await client.receive_some()
        if not received:
            break
        answer += received
    return answer.rpartition(b"\r\n")[2]


async def wait_closed(client: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while await client.receive_some():
            pass


@trio_test
async def test_idle_connection_makes_room_for_a_new_one() -> None:
    """A new connection takes the place of the one that has been idle for longest."""
    async with served() as server:
        clients = [await server.connect() for _ in range(PLACES)]
        for client in clients:
            assert await ask(client) == b"ordinary"
        newest = await server.connect()
        assert await ask(newest) == b"ordinary"
        await wait_closed(clients[0])
        assert await ask(clients[1]) == b"ordinary"


@trio_test
async def test_client_with_most_connections_loses_its_own_first() -> None:
    """Many connections from one address do not close the idle connection of another."""
    async with served() as server:
        quiet = await server.connect("127.0.0.2")
        assert await ask(quiet) == b"ordinary"
        for _ in range(5 * PLACES):
            flooding = await server.connect()
            assert await ask(flooding) == b"ordinary"
        assert await ask(quiet) == b"ordinary"


@trio_test
async def test_working_connections_are_not_closed_and_probes_get_in() -> None:
    """If every connection is busy, a new one gets a reserved place, where probes are answered."""
    async with served() as server:
        working = await server.work(PLACES)
        for _ in range(2 * room.RESERVE):  # idle connections never use up the reserve
            probe = await server.connect()
            assert await ask(probe, b"livez") == b"reserved"
        server.application.release.set()
        assert [await read(client) for client in working] == [b"ordinary"] * PLACES


@trio_test
async def test_reserved_connection_becomes_ordinary_when_there_is_room() -> None:
    """A connection leaves the reserve as soon as there is an ordinary place."""
    async with served() as server:
        working = await server.work(PLACES)
        late = await server.connect()
        assert await ask(late) == b"reserved"
        await working[0].aclose()
        while await ask(late) == b"reserved":  # noqa: ASYNC110
            await trio.sleep(0.01)
        server.application.release.set()


@trio_test
async def test_new_connection_is_closed_where_even_the_reserve_works() -> None:
    """Beyond the reserve connections are closed, and no busy connection is lost."""
    async with served() as server:
        working = await server.work(PLACES + room.RESERVE)
        await wait_closed(await server.connect())
        server.application.release.set()
        answers = [await read(client) for client in working]
        assert answers == [b"ordinary"] * PLACES + [b"reserved"] * room.RESERVE


async def upgrade(server: Served) -> trio.SocketStream:
    """Return a connection that has left HTTP."""
    client = await server.connect()
    await client.send_all(UPGRADE)
    answer = b""
    while len(answer) < len(SWITCHED):
        answer += await client.receive_some()
    assert answer == SWITCHED
    return client


@trio_test
async def test_connection_is_handed_over_to_another_protocol() -> None:
    """A request with `Upgrade` can end HTTP on its connection, in both directions, for good."""
    async with served() as server:
        client = await upgrade(server)
        for _ in range(3):
            await client.send_all(REQUEST % b"livez")
            received = b""
            while len(received) < len(REQUEST % b"livez"):
                received += await client.receive_some()
            assert received == (REQUEST % b"livez").upper()
        await client.send_eof()
        assert await client.receive_some() == b""


@trio_test
async def test_handed_over_connection_counts_as_working_and_ends_with_the_server() -> None:
    """It takes a place that no new connection displaces, and the stop closes it."""
    async with served(connections=1) as server:
        client = await upgrade(server)
        assert await ask(await server.connect(), b"livez") == b"reserved"
        server.stop.set()
        await wait_closed(client)


@trio_test
async def test_flood_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log stays short, however many connections are closed for lack of room."""
    async with served() as server:
        for _ in range(20 * PLACES):
            await ask(await server.connect())
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1


@pytest.mark.parametrize(
    "code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED]
)
@trio_test
async def test_failed_accept_is_tried_again(
    code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepting resumes after errors, which are logged in one line."""
    accept, failures = trio.SocketListener.accept, 5

    async def failing(listener: trio.SocketListener) -> trio.SocketStream:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(code, os.strerror(code))
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing)
    async with served() as server:
        assert await ask(await server.connect()) == b"ordinary"
    assert failures == 0
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info for record in lines] == [None]
    assert os.strerror(code) in lines[0].message


@trio_test
async def test_stopped_server_closes_what_is_left() -> None:
    """After the stop no connection is accepted, and a request that does not end is cut off."""
    async with served() as server:
        (working,) = await server.work(1)
        server.stop.set()
        await wait_closed(working)
        with pytest.raises(OSError, match="refused"):
            await server.connect()
