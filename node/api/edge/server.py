"""Wraps the API in its limits and protections, and serves it."""

from collections.abc import Callable
from typing import Final

import trio

from node.api.edge.asgi import (
    OPEN_PATHS,
    Application,
    Receive,
    Scope,
    Send,
    check_head,
    connection_of,
    note_client,
    refuse_websockets,
    report,
    send_error,
)
from node.api.edge.pace import keep_pace
from node.api.edge.protection import Protection
from node.errors import UnavailableError
from node.pipeline import messages
from node.routing import wire
from node.settings import NodeSettings
from shared.events.event import Event
from shared.events.node import NodePart
from shared.runtime.guard import Guard
from shared.runtime.http.server import Endpoint
from shared.runtime.http.server import serve as serve_http

_PROBES: Final = OPEN_PATHS - {wire.PATH, messages.PATH}


async def serve(  # noqa: PLR0913 - the composition root's objects
    protection: Protection,
    settings: NodeSettings,
    connections: int,
    emit: Callable[[Event], None],
    stop: trio.Event,
    guard: Guard[NodePart],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until `stop` is set.

    Args:
        protection: The application behind its authentication.
        settings: The node's settings.
        connections: Limit of open connections.
        emit: Receives events.
        stop: Set when the API must close.
        guard: Runs the tasks.
        task_status: Set by `nursery.start`.

    Raises:
        OSError: The port cannot be bound (in a group).
    """
    tls = protection.tls
    endpoint = Endpoint(
        host=settings.host,
        port=settings.api_port,
        connections=connections,
        reader_seconds=settings.reader_seconds,
        tls=None if tls is None else lambda: tls.context,
    )
    application = _wrap(protection.application, settings, emit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(protection.watch, guard, name="keys and certificates")
        await serve_http(application, endpoint, guard, stop, task_status=task_status)
        nursery.cancel_scope.cancel()


def _wrap(
    application: Application, settings: NodeSettings, emit: Callable[[Event], None]
) -> Application:
    limited = keep_reserve(check_head(note_client(application)))
    return refuse_websockets(report(keep_pace(limited, settings.reader_seconds), emit))


def keep_reserve(application: Application) -> Application:
    """Answer 503 to everything but probes on a connection beyond the limit."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        if connection is None or not connection.is_reserved or scope["path"] in _PROBES:
            await application(scope, receive, send)
            return
        message = "all connections of this node (--connections) are busy: try again later"
        error = UnavailableError(message, code="too_many_connections", retry_after_seconds=1)
        await send_error(scope, send, error)

    return wrapped
