"""The exporter's HTTP: `/metrics`, `/health`, `/livez` and `/readyz`, as one ASGI application."""

import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import trio

from exporter.journal.store import Store
from exporter.metrics import catalogue as c
from exporter.metrics.catalogue import ExporterPart
from exporter.metrics.cut import take_cut
from exporter.web.exposition import Wanted, render
from exporter.web.health import HealthChecks
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection
from shared.runtime.http.server import Endpoint
from shared.runtime.http.server import serve as serve_http
from shared.secret import BearerTokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_RENDERERS: Final = 2
"""Scrapes rendered at once; further ones wait."""
_SCRAPES: Final = 16
"""Scrapes whose text is in memory, being rendered or sent; further ones wait."""
_ANSWER_SECONDS: Final = 60.0
"""Time limit for a response, its client included; many times a scrape's usual timeout."""
_OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
"""Probes may request these without a token, because not every probe can send one. If tokens are
set, `/readyz` reports only yes or no."""
_CHALLENGE: Final = ("www-authenticate", "Bearer")
_READER_SECONDS: Final = 30.0
"""How long a client may stop reading its response."""
_TEXT: Final = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


_CROWDED: Final = Answer(503, _TEXT, b"too many connections\n", (("retry-after", "1"),))


class Application:
    """The exporter's ASGI application.

    Args:
        store: The metrics to show.
        health: The health checks.
        tokens: The tokens that `/metrics` and `/health` require; None for none.
    """

    def __init__(
        self, store: Store, health: HealthChecks, tokens: BearerTokens | None = None
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._health = health
        self._limiter = trio.CapacityLimiter(_RENDERERS)
        self._scrapes = trio.CapacityLimiter(_SCRAPES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI defines it."""
        del receive  # the body is ignored
        if scope["type"] != "http":  # a WebSocket
            await send({"type": "websocket.close"})
            return
        if _is_crowded(scope):
            await _send(scope["method"], _CROWDED, send)
            return
        is_scrape = scope["path"] == "/metrics" and self._is_allowed(scope)
        async with self._scrapes if is_scrape else contextlib.nullcontext():
            await _send(scope["method"], await self._answer(scope), send)

    async def _answer(self, scope: Scope) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return Answer(405, _TEXT, b"only GET and HEAD\n", (("allow", "GET, HEAD"),))
        if not self._is_allowed(scope):
            return Answer(401, _TEXT, b"a bearer token is needed\n", (_CHALLENGE,))
        match scope["path"]:
            case "/metrics":
                return await self._metrics(scope)
            case "/health" | "/readyz" as path:
                well, body = await self._health.report()
                if path == "/readyz" and self._tokens is not None:
                    body = {"status": body["status"]}
                written = json.dumps(body, indent=2).encode() + b"\n"
                return Answer(200 if well else 503, "application/json", written)
            case "/livez":  # this event loop itself answers, which is the check
                return Answer(200, _TEXT, b"ok\n")
            case _:
                return Answer(404, _TEXT, b"/metrics /health /livez /readyz\n")

    def _is_allowed(self, scope: Scope) -> bool:
        if self._tokens is None or scope["path"] in _OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        return self._tokens.allow(given)

    async def _metrics(self, scope: Scope) -> Answer:
        wanted = read_wanted(scope)
        began = time.perf_counter()
        async with self._limiter:
            cut = take_cut(self._store.state)
            rendered = await trio.to_thread.run_sync(render, cut, wanted)
        self._store.note(c.SCRAPE_DURATION, (), time.perf_counter() - began)
        self._health.note_scrape()
        encoding = (("content-encoding", "gzip"),) if wanted.compressed else ()
        vary = ("vary", "accept, accept-encoding")
        return Answer(200, rendered.content_type, rendered.body, (*encoding, vary))


def _is_crowded(scope: Scope) -> bool:
    """Return whether the connection is beyond the limit, where only probes are answered."""
    connection = scope.get("state", {}).get(CONNECTION)
    return (
        connection is not None
        and connection.is_reserved
        and scope["path"] not in (*_OPEN_PATHS, "/health")
    )


def read_wanted(scope: Scope) -> Wanted:
    """Read what a scrape requests."""
    accept = _read_weights(scope, b"accept")
    openmetrics = accept.get("application/openmetrics-text", 0)
    return Wanted(
        openmetrics=openmetrics > 0 and openmetrics >= accept.get("text/plain", 0),
        compressed=_read_weights(scope, b"accept-encoding").get("gzip", 0) > 0,
        names=tuple(parse_qs(scope["query_string"].decode("latin-1")).get("name[]", ())),
    )


def _read_weights(scope: Scope, header: bytes) -> dict[str, float]:
    """Return the values in a header, which may be repeated, each with its highest weight."""
    weights: dict[str, float] = {}
    values = (value for name, value in scope["headers"] if name.lower() == header)
    written = b",".join(values).decode("latin-1").lower()
    for part in "".join(written.split()).split(","):
        name, *parameters = part.split(";")
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        with contextlib.suppress(ValueError):  # an invalid weight: as if the value were absent
            weights[name] = max(float(weight), weights.get(name, 0))
    return weights


def _in_time(application: Application) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """End each response that takes too long, and its connection.

    hypercorn waits forever for an HTTP/2 window, even after the client has disconnected.
    """

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            connection = scope["state"][CONNECTION]
            nursery.start_soon(_cut_late, connection, nursery, name="web deadline")
            await application(scope, receive, send)
            nursery.cancel_scope.cancel()

    return wrapped


async def _cut_late(connection: Connection, answering: trio.Nursery) -> None:
    await trio.sleep(_ANSWER_SECONDS)
    _log.info("%s did not read its response within %g s", connection.address, _ANSWER_SECONDS)
    connection.stream.abort()
    answering.cancel_scope.cancel()


async def _send(method: str, answer: Answer, send: Send) -> None:
    headers = (
        ("content-type", answer.content_type),
        ("content-length", str(len(answer.body))),
        *answer.headers,
    )
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
        }
    )
    body = b"" if method == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def serve(
    application: Application,
    host: str,
    port: int,
    connections: int,
    guard: Guard[ExporterPart],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until cancelled.

    Raises:
        OSError: The port cannot be bound.
    """
    endpoint = Endpoint(
        host=host, port=port, connections=connections, reader_seconds=_READER_SECONDS
    )
    never = trio.Event()
    await serve_http(_in_time(application), endpoint, guard, never, task_status=task_status)
