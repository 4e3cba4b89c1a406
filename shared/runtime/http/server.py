"""Serves an ASGI application with hypercorn's protocols, each connection in its own task."""

import errno
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event as ProtocolEvent
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from shared.repeats import Repeats
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection, PacedStream
from shared.runtime.http.room import Room
from shared.runtime.http.status_line import add_reason_phrases

Application = Callable[..., Awaitable[None]]
"""An ASGI application: takes a scope, `receive` and `send`."""

_KEEP_ALIVE_SECONDS: Final = 75
_MOST_REQUESTS: Final = 2**30
"""As many streams as an HTTP/2 client can open on a connection (RFC 9113, section 5.1.1), so
unlimited. Past its own limit of 1000, hypercorn 0.18 truncates the connection's other responses."""
_HANDSHAKE_SECONDS: Final = 10.0
_CLOSING_SECONDS: Final = 1.0
_UNREAD_BYTES: Final = 64 * 2**10
"""Linux reserves twice as much. This is far more than a token needs. By default the kernel takes 4
MiB of a response, so a client that stopped reading would go unnoticed for long."""
_ACCEPT_BACKOFF_SECONDS: Final = 0.1
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)
_DIGEST_LETTERS: Final = 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a server listens, and its limits for clients.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        connections: Limit of open connections; see `Room` for what happens beyond it.
        reader_seconds: How long a client may stop reading its response.
        tls: Returns the TLS settings for the next connection; None for plain HTTP.
    """

    host: str
    port: int
    connections: int
    reader_seconds: float
    tls: Callable[[], ssl.SSLContext] | None = None


async def serve(
    application: Application,
    endpoint: Endpoint,
    guard: Guard[Literal["listener"]],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until `stop` is set.

    The `CONNECTION` in the scope's `state`, if present, is the request's connection.

    Raises:
        OSError: The port cannot be bound.
    """
    [listener] = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    _set_options(listener.socket, endpoint.reader_seconds)
    port = listener.socket.getsockname()[1]
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    scheme = "https" if endpoint.tls else "http"
    server = _Server(application, endpoint)
    async with trio.open_nursery() as outer:
        outer.start_soon(server.close_late, stop, name="http closing")
        async with listener, trio.open_nursery() as serving:
            serving.start_soon(
                guard,
                "listener",
                server.accept_until,
                stop,
                listener,
                serving,
                name="http listener",
            )
            task_status.started(f"{scheme}://{host}:{port}")
        outer.cancel_scope.cancel()


def _set_options(listener: trio.socket.SocketType, reader_seconds: float) -> None:
    """Limit how much of unread responses the kernel keeps, and how long it tries to send them.

    Accepted sockets inherit the options.
    """
    listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _UNREAD_BYTES)
    listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE, 1)
    if hasattr(trio.socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(
            trio.socket.IPPROTO_TCP, trio.socket.TCP_USER_TIMEOUT, int(reader_seconds * 1000)
        )


class _Server:
    """Accepts connections and runs them.

    hypercorn's own server is not used because any error that a client provokes in its protocols
    ends it (0.18: an HTTP/2 path that is not ASCII, a CONNECT, data after the response). It also
    limits neither the open connections nor the wait for a client, and hides client certificates
    from the application. Upstream: https://github.com/pgjones/hypercorn/issues/225 (also 203 and
    329), 81 and 62.
    """

    def __init__(self, application: Application, endpoint: Endpoint) -> None:
        framework: Any = self._track(application)
        self._application = ASGIWrapper(framework)
        self._endpoint = endpoint
        self._config = _configure()
        self._context = WorkerContext(None)
        self._room = Room(endpoint.connections)
        self._repeats = Repeats(_log, trio.current_time)

    async def accept_until(
        self, stop: trio.Event, listener: trio.SocketListener, serving: trio.Nursery
    ) -> None:
        """Accept connections into the nursery until the stop, then close the port."""
        async with trio.open_nursery() as accepting:
            accepting.start_soon(self._accept, listener, serving, name="http accepts")
            await stop.wait()
            accepting.cancel_scope.cancel()
        await listener.aclose()
        await self._context.terminated.set()

    async def close_late(self, stop: trio.Event) -> None:
        """Close the remaining connections one second after the stop. Ends then, or if cancelled.

        Nothing else ends a send that hypercorn shields.
        """
        try:
            await stop.wait()
            await trio.sleep(_CLOSING_SECONDS)
        finally:
            for connection in self._room.connections:
                connection.stream.abort()

    async def _accept(self, listener: trio.SocketListener, serving: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                self._repeats.note("cannot accept connections: %s", error, kind="accept")
                if error.errno in _NO_DESCRIPTOR and (idlest := self._room.give_up_idlest()):
                    idlest.stream.socket.close()
                else:
                    await trio.sleep(_ACCEPT_BACKOFF_SECONDS)
            else:
                serving.start_soon(self._run, stream, name="http connection")

    async def _run(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends."""
        with stream.socket:
            try:
                address = str(stream.socket.getpeername()[0])
            except OSError:  # gone already
                return
            connection = Connection(PacedStream(stream, self._endpoint.reader_seconds), address)
            if not self._enter(connection):
                return
            try:
                await self._serve(connection)
            except* (OSError, trio.BrokenResourceError, trio.TooSlowError) as group:
                _log.debug("the connection with %s failed: %r", address, group.exceptions[0])
            except* Exception as group:  # noqa: BLE001 - errors that hypercorn does not expect
                kinds = ", ".join(type(error).__name__ for error in group.exceptions)
                text = "the connection with %s broke its protocol (%s)"
                self._repeats.note(text, address, kinds, kind="protocol")
                _log.debug("where it broke", exc_info=group)
            finally:
                self._room.leave(connection)

    def _enter(self, connection: Connection) -> bool:
        """Make room for a connection. Return False if there is none."""
        displaced = self._room.enter(connection)
        if displaced is not None:
            self._repeats.note(
                "the limit of %d open connections is reached: closing one with %s",
                self._endpoint.connections,
                displaced.address,
                kind="room",
            )
            displaced.stream.socket.close()
        return displaced is not connection

    async def _serve(self, connection: Connection) -> None:
        stream: Any = connection.stream
        if self._endpoint.tls is not None:
            context = self._endpoint.tls()
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            with trio.fail_after(_HANDSHAKE_SECONDS):
                await stream.do_handshake()
            connection.certificate = _client_digest(stream)
            connection.names = _client_names(stream)
        state = {CONNECTION: connection}
        server = _Protocol(self._application, self._config, self._context, state, stream)
        connection.server = server
        with connection.http:
            await server
        if connection.successor is not None:
            with connection.working():
                await connection.successor(stream)

    def _track(self, application: Application) -> Application:
        """Records which connections have requests in progress."""

        async def tracked(scope: Any, receive: Any, send: Any) -> None:
            connection: Connection = scope["state"][CONNECTION]
            self._room.promote(connection)
            with connection.working():
                await application(scope, receive, send)

        return tracked


class _Protocol(TCPServer):
    """hypercorn's protocol for a connection; it ends as soon as the client has disconnected.

    hypercorn 0.18 would keep the socket until its keep-alive timer fires;
    https://github.com/pgjones/hypercorn/issues/210 is part of the cause. The methods are not
    public: the version is pinned exactly, and tests of closed connections cover what is used here.
    """

    _left = False

    async def protocol_send(self, event: ProtocolEvent) -> None:
        """Send to the client, at once if there is room."""
        connection: Connection = self.state[CONNECTION]
        if connection.successor is not None:  # hypercorn would send a 500 for the request that left
            return
        if isinstance(event, RawData):
            sent = connection.send_nowait(event.data)
            if sent == len(event.data):
                return
            event = RawData(event.data[sent:])
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        add_reason_phrases(self.protocol.protocol)
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._left:
            await super()._idle_timeout()

    async def _close(self) -> None:
        connection: Connection = self.state[CONNECTION]
        if connection.successor is None:
            await super()._close()


def _client_digest(stream: "trio.SSLStream[trio.abc.Stream]") -> str:
    """Return the start of the digest of the client's certificate; empty without one."""
    certificate = stream.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).hexdigest()[:_DIGEST_LETTERS] if certificate else ""


def _client_names(stream: "trio.SSLStream[trio.abc.Stream]") -> frozenset[str]:
    """Return the DNS names, addresses and so on for which the client's certificate was issued."""
    certificate = stream.getpeercert() or {}
    names = certificate.get("subjectAltName", ())
    return frozenset(name for kind, name in names if kind != "DirName")


def _configure() -> Config:
    config = Config()
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS  # also limits how long headers may take
    config.keep_alive_max_requests = _MOST_REQUESTS
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    return config
