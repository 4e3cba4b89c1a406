"""CORS: only named origins have access, and preflights come before authentication."""

from typing import Any

import pytest
from trio.testing import trio_test

from node.api.edge.asgi import Application, require_key
from node.api.edge.cors import allow_origins
from shared.secret import BearerTokens

ORIGIN = b"https://chat.example"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer any request."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"said"})


async def ask(
    application: Application, method: str = "POST", **headers: bytes
) -> tuple[int, dict[bytes, bytes]]:
    """Return the status and the headers of a response."""
    started: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    given = [(name.replace("_", "-").encode(), text) for name, text in headers.items()]
    scope = {"type": "http", "method": method, "path": "/v1/models", "headers": given}
    await application(scope, receive, send)
    return started[0]["status"], dict(started[0]["headers"])


@trio_test
async def test_preflight_needs_no_key() -> None:
    """A preflight needs no key."""
    closed = allow_origins(require_key(answer, BearerTokens(["key"])), (ORIGIN.decode(),))
    status, headers = await ask(
        closed,
        "OPTIONS",
        origin=ORIGIN,
        access_control_request_method=b"POST",
        access_control_request_headers=b"authorization, content-type",
    )
    assert status == 204
    assert headers[b"access-control-allow-origin"] == ORIGIN
    assert headers[b"access-control-allow-headers"] == b"authorization, content-type"
    assert b"POST" in headers[b"access-control-allow-methods"]
    assert b"access-control-allow-credentials" not in headers


@trio_test
async def test_page_may_read_refusals_too() -> None:
    """A page of a named origin can read refusals such as a 401."""
    closed = allow_origins(require_key(answer, BearerTokens(["key"])), (ORIGIN.decode(),))
    status, headers = await ask(closed, origin=ORIGIN)
    assert status == 401
    assert headers[b"access-control-allow-origin"] == ORIGIN
    assert headers[b"vary"] == b"Origin"
    status, headers = await ask(closed, origin=ORIGIN, authorization=b"Bearer key")
    assert status == 200
    assert headers[b"x"] == b"y"
    assert headers[b"access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", [b"https://other.example", b"http://chat.example", b"null", b""])
@trio_test
async def test_other_origin_gets_nothing(origin: bytes) -> None:
    """Another origin gets no CORS headers."""
    application = allow_origins(answer, (ORIGIN.decode(),))
    for method, status in (("POST", 200), ("OPTIONS", 200)):
        got, headers = await ask(
            application, method, origin=origin, access_control_request_method=b"POST"
        )
        assert got == status
        assert not any(name.startswith(b"access-control") for name in headers)


@trio_test
async def test_star_is_any_origin() -> None:
    """`*` allows every origin."""
    _, headers = await ask(allow_origins(answer, ("*",)), origin=b"http://localhost:5173")
    assert headers[b"access-control-allow-origin"] == b"http://localhost:5173"


@trio_test
async def test_request_of_no_page_is_left_alone() -> None:
    """Requests without an origin are unchanged."""
    _, headers = await ask(allow_origins(answer, ("*",)))
    assert headers == {b"x": b"y"}
