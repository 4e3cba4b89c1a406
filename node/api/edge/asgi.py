"""ASGI wrappers around the application: access, limits, and one event per request."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec
import trio

from node.api.pages.page import PAGE_PATHS
from node.api.request_id import REQUEST_ID, choose_request_id
from node.api.schema import error_body
from node.errors import (
    InvalidRequestError,
    MissingKeyError,
    RequestError,
    UnauthorizedError,
    WrongKeyError,
)
from node.pipeline import messages
from node.routing import wire
from shared.events.api import HttpFinished
from shared.events.event import Event
from shared.runtime.http.connection import CONNECTION, Connection
from shared.secret import BearerTokens, bearer_token

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
SendPiece = Callable[[bytes], Awaitable[None]]

ROUTE: Final = "distributed_llm.route"
"""ASGI scope key: the application stores the template of the matched route here."""
CLIENT: Final = "distributed_llm.client"
"""ASGI scope key: the client that takes turns in the queue. A digest of its API key, else of its
client certificate, else its address; never the key itself."""
CUT: Final = "distributed_llm.cut"
"""ASGI scope key: set if the response was cut off because its client did not read."""
SEND_PIECE: Final = "distributed_llm.send_piece"
"""ASGI scope key: a `SendPiece` that takes the pieces of a body past ASGI, straight to the
connection. Set once the head of a response is sent, if the body is sent in chunks."""
REFUSED: Final = "distributed_llm.refused"
"""ASGI scope key: the error that refuses a gRPC call; the gRPC service sends it."""
CALLS: Final = (
    "/distributed_llm.v1.Inference/",
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
"""Path prefixes of gRPC calls."""
COUNTED_ELSEWHERE: Final = ""
"""The route of a request that has its own event, such as a gRPC call."""
OPEN_PATHS: Final = frozenset(
    {
        "/health",
        "/livez",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        wire.PATH,
        messages.PATH,
    }
)
"""The paths of probes, some of which cannot send a key or a certificate, and the path of signed
requests between nodes."""
HEADERS_LIMIT: Final = 100
HEADER_BYTES: Final = 16 * 2**10

_ABSOLUTE: Final = re.compile(rb"https?://[^/]*(.*)", re.IGNORECASE | re.DOTALL)
_UNKNOWN: Final = "unknown"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed the connection before the response was sent."""
_CLIENT_STALLED: Final = 408
"""nginx's status for a client that did not read its response in time."""


class HeadersTooLargeError(InvalidRequestError):
    """The request's headers are too many or too large."""

    status = 431
    code = "headers_too_large"


def connection_of(scope: Scope) -> Connection | None:
    """Return a request's connection; None in a test without a server."""
    found = scope.get("state", {}).get(CONNECTION)
    return found if isinstance(found, Connection) else None


def note_client(application: Application) -> Application:
    """Record a request's client in the scope, until its key identifies it better."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        if connection is not None and connection.certificate:
            scope[CLIENT] = f"certificate:{connection.certificate}"
        else:
            scope[CLIENT] = (scope.get("client") or ("",))[0]
        await application(scope, receive, send)

    return wrapped


def require_certificate(application: Application) -> Application:
    """Answer 401 to a client without a certificate, except on the probes' paths.

    The handshake has verified the certificate, if the client sent one. It cannot require one,
    because probes have none and the path is known only afterwards.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        connection = connection_of(scope)
        shown = connection is not None and connection.certificate
        if shown or scope["path"] in OPEN_PATHS:
            await application(scope, receive, send)
        else:
            message = "this API requires a client certificate signed by its CA"
            error = UnauthorizedError(message, code="client_certificate_required")
            await _refuse(application, error, scope, receive, send)

    return wrapped


def require_key(application: Application, keys: BearerTokens) -> Application:
    """Answer 401 to a request without a valid key, except on the open paths and on the page's."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        given = _given_key(dict(scope["headers"]))
        name = keys.find(given)
        if name is not None:
            scope[CLIENT] = f"key:{name}"
        # The page contains no secret: its requests carry the key that the user types into it.
        if name is not None or scope["path"] in OPEN_PATHS or scope["path"] in PAGE_PATHS:
            await application(scope, receive, send)
        else:
            error = WrongKeyError() if bearer_token(given) else MissingKeyError()
            await _refuse(application, error, scope, receive, send)

    return wrapped


def _given_key(headers: dict[bytes, bytes]) -> str:
    """Return the value of `Authorization`, also for a key in Anthropic's header."""
    if b"authorization" not in headers and b"x-api-key" in headers:
        return "Bearer " + headers[b"x-api-key"].decode("latin-1")
    return headers.get(b"authorization", b"").decode("latin-1")


async def _refuse(
    application: Application, error: RequestError, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send the error. The gRPC service sends its own form of it for a gRPC call."""
    if scope["path"].startswith(CALLS):
        scope[REFUSED] = error
        await application(scope, receive, send)
    else:
        await send_error(scope, send, error)


def check_head(application: Application) -> Application:
    """Answer 431 to too many or too large headers, and 400 to a target that is not a path.

    A target in absolute form is served by its path (RFC 9112, section 3.2.2). h11 itself limits the
    size over HTTP/1. Quart fails on an empty target.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        size = len(scope["raw_path"]) + sum(len(name) + len(value) for name, value in headers)
        _drop_authority(scope)
        if len(headers) > HEADERS_LIMIT or size > HEADER_BYTES:
            message = f"a request may have at most {HEADERS_LIMIT} headers of {HEADER_BYTES} bytes"
            await send_error(scope, send, HeadersTooLargeError(message))
        elif scope["path"] == "*" and scope["method"] == "OPTIONS":
            await _answer_options(send)
        elif not scope["path"].startswith("/"):
            await send_error(scope, send, InvalidRequestError("the request's target is not a path"))
        else:
            await application(scope, receive, send)

    return wrapped


def _drop_authority(scope: Scope) -> None:
    """Replace a target in absolute form with its path."""
    found = _ABSOLUTE.match(scope["raw_path"])
    if found is not None:
        scope["raw_path"] = found[1] or b"/"
        scope["path"] = unquote(scope["raw_path"].decode("ascii"))


async def _answer_options(send: Send) -> None:
    """Answer `OPTIONS *`, which asks about the server (RFC 9110, section 9.3.7)."""
    headers = [(b"allow", b"GET, HEAD, OPTIONS, POST")]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def refuse_websockets(application: Application) -> Application:
    """Close WebSockets, which the API does not support, so that the application never sees one."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await application(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    return wrapped


async def send_error(scope: Scope, send: Send, error: RequestError) -> None:
    """Send a complete response with OpenAI's error object."""
    given = dict(scope["headers"]).get(REQUEST_ID.lower().encode(), b"").decode("latin-1")
    body = msgspec.json.encode(error_body(error))
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        REQUEST_ID: choose_request_id(given),
        **error.headers(),
    }
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def report(application: Application, emit: Callable[[Event], None]) -> Application:
    """Emit one `HttpFinished` for each request that is not counted elsewhere, however it ends."""

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
