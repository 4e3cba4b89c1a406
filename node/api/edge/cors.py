"""Lets browser pages of other origins use the API, if the operator listed them.

The protocol is that of the Fetch Standard, section "CORS protocol". The API has no cookies,
so no credentials are allowed.
"""

from typing import Final

from node.api.edge.asgi import Application, Message, Receive, Scope, Send

ANY: Final = "*"
_METHODS: Final = b"GET, POST, OPTIONS"
_MAX_AGE_SECONDS: Final = b"600"
_EXPOSED: Final = b"x-request-id, retry-after, grpc-status, grpc-message"


def allow_origins(application: Application, origins: tuple[str, ...]) -> Application:
    """Answer preflights from these origins, and let their pages read the responses.

    Args:
        application: Answers everything else, including authentication errors.
        origins: As browsers send them (`https://chat.example`), or `*` for all.
    """
    allowed = frozenset(origin.encode() for origin in origins)

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or not ({origin, ANY.encode()} & allowed):
            await application(scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await _answer_preflight(origin, headers, send)
        else:
            await application(scope, receive, _allowing(origin, send))

    return wrapped


async def _answer_preflight(origin: bytes, headers: dict[bytes, bytes], send: Send) -> None:
    answer = [
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-max-age", _MAX_AGE_SECONDS),
        (b"vary", b"Origin"),
    ]
    if (wanted := headers.get(b"access-control-request-headers")) is not None:
        answer.append((b"access-control-allow-headers", wanted))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _allowing(origin: bytes, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED),
                (b"vary", b"Origin"),
            ]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending
