"""What stands between hypercorn and the application: who may ask, and the event of each request."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import trio

from node.api.edge.connection import CONNECTION, Connection
from node.api.pages.page import PAGE_PATHS
from node.api.request_id import REQUEST_ID, choose_request_id
from node.api.schema import error_body
from node.errors import InvalidRequestError, RequestError, UnauthorizedError
from node.routing import wire
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
"""Key of the ASGI scope: for whom a request is queued fairly. A digest of its API key, else of its
client certificate, else its address; never the key itself."""
CUT: Final = "distributed_llm.cut"
"""Key of the ASGI scope: set where the response was cut because its client did not read."""
REFUSED: Final = "distributed_llm.refused"
"""Key of the ASGI scope: the error that refuses a call over gRPC, for it to say so in its form."""
CALLS: Final = (
    "/distributed_llm.v1.Inference/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
"""How the paths of calls over gRPC begin."""
COUNTED_ELSEWHERE: Final = ""
"""Noted as the route of what has an event of its own, as a call over gRPC."""
OPEN_PATHS: Final = frozenset(
    {
        "/health",
        "/livez",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        wire.PATH,
    }
)
"""What a probe asks, which can carry neither a key nor a certificate everywhere; and what nodes ask
of each other, signed."""
HEADERS_LIMIT: Final = 100
HEADER_BYTES: Final = 16 * 2**10

_UNKNOWN: Final = "unknown"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection before the response was sent."""
_CLIENT_STALLED: Final = 408
"""What nginx logs for a client that did not read its response in time."""


class HeadersTooLargeError(InvalidRequestError):
    """The request's headers are too many or too large."""

    status = 431
    code = "headers_too_large"


def connection_of(scope: Scope) -> Connection | None:
    """Find the connection that a request came by; None in a test without a server."""
    found = scope.get("state", {}).get(CONNECTION)
    return found if isinstance(found, Connection) else None


def note_client(application: Application) -> Application:
    """Note in the scope for whom a request is answered, until a key says it better."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        if connection is not None and connection.certificate:
            scope[CLIENT] = f"certificate:{connection.certificate}"
        else:
            scope[CLIENT] = (scope.get("client") or ("",))[0]
        await application(scope, receive, send)

    return wrapped


def require_certificate(application: Application) -> Application:
    """Answer 401 to who showed no client certificate, but for what probes ask.

    The handshake has verified one that was shown; it cannot demand one, for a probe has none and
    what it asks for is known only afterwards.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        shown = connection is not None and connection.certificate
        if not shown and scope["path"] not in OPEN_PATHS:
            message = "this API asks for a client certificate that its authority has signed"
            error = UnauthorizedError(message, code="client_certificate_required")
            if not _leave_refusal(scope, error):
                await send_error(scope, send, error)
                return
        await application(scope, receive, send)

    return wrapped


def require_key(application: Application, keys: BearerTokens) -> Application:
    """Answer 401 to who carries none of the keys; what is open, and the page, stay so."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        name = keys.find(given)
        if name is not None:
            scope[CLIENT] = f"key:{name}"
        # The page tells nothing: what it asks for needs the key that is typed into it.
        if name is None and scope["path"] not in OPEN_PATHS and scope["path"] not in PAGE_PATHS:
            message = "this API asks for a key: send Authorization: Bearer <key>"
            error = UnauthorizedError(message)
            if not _leave_refusal(scope, error):
                await send_error(scope, send, error, (b"www-authenticate", b"Bearer"))
                return
        await application(scope, receive, send)

    return wrapped


def _leave_refusal(scope: Scope, error: RequestError) -> bool:
    """Leave it to a call over gRPC to say in its own form why it is refused; true for a call."""
    is_call: bool = scope["path"].startswith(CALLS)
    if is_call:
        scope[REFUSED] = error
    return is_call


def check_head(application: Application) -> Application:
    """Answer 431 to too many or too large headers, and 400 to a target that is no path.

    h11 bounds the size over HTTP/1 by itself; Quart fails on a target that is empty.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        size = len(scope["raw_path"]) + sum(len(name) + len(value) for name, value in headers)
        if len(headers) > HEADERS_LIMIT or size > HEADER_BYTES:
            message = f"a request has at most {HEADERS_LIMIT} headers of {HEADER_BYTES} bytes"
            await send_error(scope, send, HeadersTooLargeError(message))
        elif not scope["path"].startswith("/"):
            await send_error(scope, send, InvalidRequestError("the request's target is not a path"))
        else:
            await application(scope, receive, send)

    return wrapped


def refuse_websockets(application: Application) -> Application:
    """Close what asks for a WebSocket: the API has none, and so nobody needs to know of them."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    return wrapped


async def send_error(
    scope: Scope, send: Send, error: RequestError, *headers: tuple[bytes, bytes]
) -> None:
    """Send a whole response that is OpenAI's error object."""
    given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
    body = msgspec.json.encode(error_body(error))
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (REQUEST_ID.lower().encode(), choose_request_id(given).encode()),
            *headers,
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def report(application: Application, emit: Callable[[Event], None]) -> Application:
    """Emit one `HttpFinished` for each request but those counted elsewhere, whatever its end."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        began = trio.current_time()
        status = _CLIENT_LEFT
        last = "http.response.body"
        complete = False

        async def watching(message: Message) -> None:
            nonlocal status, last, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                if message.get("trailers"):
                    last = "http.response.trailers"
            await send(message)
            more = message.get("more_body") or message.get("more_trailers")
            complete = complete or (message["type"] == last and not more)

        try:
            await application(scope, receive, watching)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            seconds = trio.current_time() - began
            broken = _CLIENT_STALLED if scope.get(CUT) else _CLIENT_LEFT
            route = scope.get(ROUTE, _UNKNOWN)
            if route != COUNTED_ELSEWHERE:
                emit(HttpFinished(route, method, status if complete else broken, seconds))

    return wrapped
