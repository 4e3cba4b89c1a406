"""Builds the gRPC services, and serves them on the port of the HTTP application."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import trio
from connectrpc.codec import proto_binary_codec, proto_json_codec
from connectrpc.interceptor import Interceptor
from connectrpc.server import ConnectASGIApplication
from connectrpc_grpcreflect import (
    ServerReflectionAlphaASGIApplication,
    ServerReflectionAlphaService,
    ServerReflectionASGIApplication,
    ServerReflectionService,
)

from node.api.edge.asgi import ROUTE, Application, Message, Receive, Scope, Send
from node.api.grpc.generated.distributed_llm.v1.inference_connect import (
    Inference,
    InferenceASGIApplication,
)
from node.api.grpc.generated.grpc.health.v1.health_connect import Health, HealthASGIApplication
from node.api.grpc.interceptors import NURSERY, SCOPE, AccountForCalls, Refuse
from shared.events.event import Event

MESSAGE_BYTES: Final = 8 * 2**20
"""The largest request, the same as for an HTTP body."""

_CODECS: Final = (proto_binary_codec(), proto_json_codec(ignore_unknown_fields=False))
"""JSON has field names, so unknown fields can be refused."""

Service = ConnectASGIApplication[Any]


def build_services(
    inference: Inference,
    health: Health,
    emit: Callable[[Event], None],
) -> list[Service]:
    """Build each service as an ASGI application.

    Args:
        inference: The node's own methods.
        health: Reports whether the node serves.
        emit: Receives events.
    """
    each: list[Interceptor] = [AccountForCalls(emit), Refuse()]
    described = (Inference.desc(), Health.desc())
    return [
        InferenceASGIApplication(
            inference, interceptors=each, read_max_bytes=MESSAGE_BYTES, codecs=_CODECS
        ),
        HealthASGIApplication(health, interceptors=each),
        ServerReflectionASGIApplication(ServerReflectionService(*described), interceptors=each),
        ServerReflectionAlphaASGIApplication(
            ServerReflectionAlphaService(*described), interceptors=each
        ),
    ]


def beside(application: Application, services: Iterable[Service]) -> Application:
    """Route requests under a service's path to that service, and all others to the application."""
    by_path: dict[str, Any] = {service.path: service for service in services}

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        prefix = "/" + path[1:].partition("/")[0]
        service: Application | None = by_path.get(prefix)
        if service is None:
            await application(scope, receive, send)
            return
        scope[ROUTE] = prefix  # until it is known to be a call
        if fault := _fault(scope):
            await _refuse(*fault, send)
        else:
            SCOPE.set(scope)
            await _call(service, scope, receive, send)

    return wrapped


async def _call(service: Application, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a call, and cancel it when its client disconnects.

    On Trio the library notices a disconnect only when the handler sends something. A request that
    waits in the queue does not send for a long time.
    """
    async with trio.open_nursery() as nursery:
        NURSERY.set(nursery)

        async def watching() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                nursery.cancel_scope.cancel()
            return message

        await service(scope, watching, send)
        nursery.cancel_scope.cancel()


def _fault(scope: Scope) -> tuple[int, bytes] | None:
    """Return status and reason for a request on which the library would fail, else None."""
    if not all(name.isascii() and value.isascii() for name, value in scope["headers"]):
        return 400, b"metadata is ASCII; other bytes go into keys that end in -bin, in base64\n"
    kind: bytes = dict(scope["headers"]).get(b"content-type", b"")
    is_grpc = kind == b"application/grpc" or kind.startswith(b"application/grpc+")
    if is_grpc and "http.response.trailers" not in scope["extensions"]:
        return 426, b"gRPC needs HTTP/2; gRPC-Web and Connect do not\n"
    return None


async def _refuse(status: int, reason: bytes, send: Send) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(reason))]
    if status == 426:
        headers += [(b"upgrade", b"h2c"), (b"connection", b"upgrade")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason, "more_body": False})
