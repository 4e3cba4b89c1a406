"""What stands between hypercorn and the application: the response's last send, and its event."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import trio

from node.api.pages import PAGE_PATHS
from node.api.schema import error_body
from node.errors import UnauthorizedError
from shared.events import Event, HttpFinished
from shared.secret import BearerTokens

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ROUTE: Final = "distributed_llm.route"
"""Key of the ASGI scope where the application notes which route's template matched."""
CLIENT: Final = "distributed_llm.client"
"""Key of the ASGI scope where what checks the API keys notes whose key it was."""
REFUSED: Final = "distributed_llm.refused"
"""Key of the ASGI scope: the error that refuses a call over gRPC, for it to say so in its form."""
CALLS: Final = (
    "/distributed_llm.v1.Inference/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
"""How the paths of calls over gRPC begin."""
_OPEN_PATHS: Final = frozenset(
    {
        "/health",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        *PAGE_PATHS,
    }
)
COUNTED_ELSEWHERE: Final = ""
"""Noted as the route of what has an event of its own, as a call over gRPC."""
_UNKNOWN: Final = "unknown"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LAST_SEND_SECONDS: Final = 5.0
_CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection before the response was sent."""


def finish_sends(application: Application) -> Application:
    """Let the last send of a response finish.

    Quart-Trio cancels a request while hypercorn is still inside that send, which then neither
    closes a `Connection: close` connection nor starts the keep-alive timer. The shield is
    bounded, for a client may have stopped reading.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def shielding(message: Message) -> None:
            if message["type"] != "http.response.body" or message.get("more_body", False):
                await send(message)
                return
            with trio.move_on_after(_LAST_SEND_SECONDS, shield=True):
                await send(message)

        await application(scope, receive, shielding)

    return wrapped


def require_key(application: Application, keys: BearerTokens) -> Application:
    """Answer 401 to who carries none of the keys; health and the page stay open."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await application(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if keys.allow(given):
            await application(scope, receive, send)
            return
        error = UnauthorizedError("this API asks for a key: send Authorization: Bearer <key>")
        if scope["path"].startswith(CALLS):
            scope[REFUSED] = error
            await application(scope, receive, send)
        else:
            await _refuse(send, error)

    return wrapped


async def _refuse(send: Send, error: UnauthorizedError) -> None:
    body = msgspec.json.encode(error_body(error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def report(application: Application, emit: Callable[[Event], None]) -> Application:
    """Emit one `HttpFinished` for each request but those counted elsewhere, whatever its end."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await application(scope, receive, send)
            return
        began = trio.current_time()
        status = _CLIENT_LEFT
        complete = False

        async def watching(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await application(scope, receive, watching)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            seconds = trio.current_time() - began
            outcome = status if complete else _CLIENT_LEFT
            route = scope.get(ROUTE, _UNKNOWN)
            if route != COUNTED_ELSEWHERE:
                emit(HttpFinished(route, method, outcome, seconds))

    return wrapped
