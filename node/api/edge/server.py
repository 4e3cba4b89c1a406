"""Serves the application on hypercorn's protocols, each connection in a task of its own."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from node.api.edge.asgi import Application, check_head, note_client, refuse_websockets, report
from node.api.edge.pace import keep_pace
from node.api.edge.protection import Protection
from node.api.edge.tls import ServerTls, client_digest
from shared.events import Event, NodePart
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection, PacedStream

_KEEP_ALIVE_SECONDS: Final = 75
_MOST_REQUESTS: Final = 2**30
"""As many streams as an HTTP/2 client can open on a connection (RFC 9113, section 5.1.1): no limit.
At its own of 1000, hypercorn 0.18 cuts what the connection's other streams still have to send."""
_HANDSHAKE_SECONDS: Final = 10.0
_CLOSING_SECONDS: Final = 1.0
_UNREAD_BYTES: Final = 64 * 2**10
"""Linux reserves the double. Far more than a token needs; left alone the kernel would take 4 MiB of
a response for a client that reads nothing, and nobody would notice for long."""
_WARNING_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Door:
    """Where the API listens, and how much it takes from clients.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        connections: How many may be open at once; further ones are closed.
        reader_seconds: How long a client may read nothing of its response.
    """

    host: str
    port: int
    connections: int
    reader_seconds: float


async def serve(
    protection: Protection,
    door: Door,
    emit: Callable[[Event], None],
    stop: trio.Event,
    guard: Guard[NodePart],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until `stop` is set.

    Raises:
        OSError: The port cannot be had.
    """
    [listener] = await trio.open_tcp_listeners(door.port, host=door.host)
    _set_options(listener.socket, door.reader_seconds)
    port = listener.socket.getsockname()[1]
    host = f"[{door.host}]" if ":" in door.host else door.host
    application = _wrap(protection.application, door, emit)
    connections = _Connections(application, door, protection.tls)
    scheme = "https" if protection.tls else "http"
    async with trio.open_nursery() as outer:
        outer.start_soon(protection.watch, guard, name="keys and certificates")
        outer.start_soon(connections.close_late, stop, name="api closing")
        async with trio.open_nursery() as serving:
            serving.start_soon(
                guard, "listener", connections.accept, listener, stop, serving, name="api listener"
            )
            task_status.started(f"{scheme}://{host}:{port}")
        outer.cancel_scope.cancel()


def _wrap(application: Application, door: Door, emit: Callable[[Event], None]) -> AppWrapper:
    limited = check_head(note_client(application))
    paced = keep_pace(limited, door.reader_seconds)
    framework: Any = refuse_websockets(report(paced, emit))
    return ASGIWrapper(framework)


def _set_options(listener: trio.socket.SocketType, reader_seconds: float) -> None:
    """Bound what the kernel keeps of unread responses, and for how long it tries to bring them.

    What is accepted takes the options over.
    """
    listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _UNREAD_BYTES)
    listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
    if hasattr(trio.socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(
            trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT, int(reader_seconds * 1000)
        )


class _Connections:
    """The open connections.

    hypercorn's own server would do, were it not that whatever a client brings its protocols to
    raise ends it (0.18: an HTTP/2 path that is not ASCII, a CONNECT, data after the response), that
    nothing bounds how long it waits for a reader, and that an application sees no certificate.
    """

    def __init__(self, application: AppWrapper, door: Door, tls: ServerTls | None) -> None:
        self._application = application
        self._door = door
        self._tls = tls
        self._config = _configure()
        self._context = WorkerContext(None)
        self._open: set[Connection] = set()
        self._warned_at: dict[str, float] = {}

    async def accept(
        self, listener: trio.SocketListener, stop: trio.Event, serving: trio.Nursery
    ) -> None:
        """Take connections into the nursery until it is time to stop; then close the port."""
        async with trio.open_nursery() as accepting:
            listen = functools.partial(
                trio.serve_listeners, self._run, [listener], handler_nursery=serving
            )
            accepting.start_soon(listen, name="api accepts")
            await stop.wait()
            accepting.cancel_scope.cancel()
        await self._context.terminated.set()

    async def close_late(self, stop: trio.Event) -> None:
        """Close what is still open some time after the stop. Runs until cancelled, or that time.

        Nothing else ends a send that hypercorn shields.
        """
        try:
            await stop.wait()
            await trio.sleep(_CLOSING_SECONDS)  # the scheduler drained before `stop`
        finally:
            for connection in self._open:
                connection.stream.abort()

    async def _run(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        if len(self._open) >= self._door.connections:
            self._warn("%d connections are open: no more are taken", len(self._open))
            return
        paced = PacedStream(stream, self._door.reader_seconds)
        try:
            address = str(stream.socket.getpeername()[0])
        except OSError:  # gone already
            return
        connection = Connection(paced, address)
        with self._counted(connection):
            try:
                await self._serve(connection)
            except* (trio.BrokenResourceError, trio.TooSlowError) as group:
                _log.debug("no connection with %s: %r", address, group.exceptions[0])
            except* Exception as group:  # noqa: BLE001 - hypercorn raises what it did not expect
                kinds = ", ".join(type(error).__name__ for error in group.exceptions)
                self._warn("the connection with %s broke its protocol (%s)", address, kinds)
                _log.debug("where it broke", exc_info=group)

    async def _serve(self, connection: Connection) -> None:
        stream: Any = connection.stream
        if self._tls is not None:
            stream = trio.SSLStream(
                connection.stream, self._tls.context, server_side=True, https_compatible=True
            )
            with trio.fail_after(_HANDSHAKE_SECONDS):
                await stream.do_handshake()
            connection.certificate = client_digest(stream)
        state = {CONNECTION: connection}
        server = _Server(self._application, self._config, self._context, state, stream)
        connection.server = server
        await server

    @contextlib.contextmanager
    def _counted(self, connection: Connection) -> Iterator[None]:
        self._open.add(connection)
        try:
            yield
        finally:
            self._open.remove(connection)

    def _warn(self, text: str, *arguments: object) -> None:
        # Clients bring this about: one line a minute of a kind, or they could fill the disk.
        now = trio.current_time()
        if now - self._warned_at.get(text, -math.inf) > _WARNING_SECONDS:
            self._warned_at[text] = now
            _log.warning(text, *arguments)


class _Server(TCPServer):
    """hypercorn's side of a connection, which here ends as soon as its client has left.

    hypercorn 0.18 would keep the socket until its keep-alive timer fires.
    """

    _left = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._left:
            await super()._idle_timeout()


def _configure() -> Config:
    config = Config()
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS  # also bounds how long headers may take
    config.keep_alive_max_requests = _MOST_REQUESTS
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
