"""The exporter's HTTP: metrics, health, status and the page, as one ASGI application."""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import trio

from exporter.journal.store import Store
from exporter.metrics.catalogue.exporter import SCRAPE_DURATION, ExporterPart
from exporter.metrics.cut import take_cut
from exporter.status.status import Status
from exporter.web.access import PROBES, Access
from exporter.web.collectors import Collectors
from exporter.web.exposition import Wanted, render
from exporter.web.health import HealthChecks
from exporter.web.page import PAGE
from exporter.web.stream import LIMIT, STREAM_TYPE, StatusStreams
from shared.runtime.guard import Guard
from shared.runtime.http.connection import CONNECTION, Connection
from shared.runtime.http.page_files import PAGE_HEADERS
from shared.runtime.http.server import Endpoint
from shared.runtime.http.server import serve as serve_http

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_RENDERERS: Final = 2
"""Scrapes rendered at once; further ones wait."""
_SCRAPES: Final = 16
"""Scrapes whose text is in memory, being rendered or sent; further ones wait."""
_ANSWER_SECONDS: Final = 60.0
"""Time limit for a response, its client included; many times a scrape's usual timeout."""
_STREAM: Final = "/status/stream"
_PATHS: Final = f"/ /metrics /status {_STREAM} /health /livez /readyz\n".encode()
READER_SECONDS: Final = 30.0
"""How long a client may stop reading its response."""
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_FRESH: Final = (("cache-control", "no-store"),)
_STREAM_HEADERS: Final = (*_FRESH, ("x-accel-buffering", "no"))
"""Without the second, nginx holds events back."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A complete response."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


_FULL: Final = Answer(503, _TEXT, b"too many open streams\n", (("retry-after", "10"),))
_CROWDED: Final = Answer(503, _TEXT, b"too many connections\n", (("retry-after", "1"),))


class Application:
    """The exporter's ASGI application.

    Args:
        store: The metrics to show.
        health: The health checks.
        status: What the page shows.
        access: Who may read them.
        collectors: The metrics beside the store's.
    """

    def __init__(
        self,
        store: Store,
        health: HealthChecks,
        status: Status,
        access: Access,
        collectors: Collectors,
    ) -> None:
        self._access = access
        self._collectors = collectors
        self._store = store
        self._health = health
        self._status = status
        self._streams = StatusStreams(status)
        self._routes: dict[str, Callable[[Scope], Awaitable[Answer]]] = {
            "/metrics": self._metrics,
            "/health": self._report_health,
            "/readyz": self._report_health,
            "/livez": self._report_alive,
            "/status": self._report_status,
            _STREAM: self._refuse_stream,
            **dict.fromkeys(PAGE, self._show_page),
        }
        self._limiter = trio.CapacityLimiter(_RENDERERS)
        self._scrapes = trio.CapacityLimiter(_SCRAPES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI defines it."""
        if scope["type"] != "http":  # a WebSocket
            await send({"type": "websocket.close"})
            return
        if _is_crowded(scope):
            await self._send(scope, _CROWDED, send)
        elif refusal := await self._access.find_refusal(scope):
            reason = f"{refusal.reason}\n".encode()
            await self._send(scope, Answer(refusal.status, _TEXT, reason, refusal.headers), send)
        elif self._opens_stream(scope):
            headers = self._dress((("content-type", STREAM_TYPE), *_STREAM_HEADERS))
            await self._streams.answer(scope, _encode(headers), receive, send)
        else:
            is_scrape = scope["path"] == "/metrics"
            async with self._scrapes if is_scrape else contextlib.nullcontext():
                await self._send(scope, await self._answer(scope), send)

    async def _answer(self, scope: Scope) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return Answer(405, _TEXT, b"only GET and HEAD\n", (("allow", "GET, HEAD"),))
        if (route := self._routes.get(scope["path"])) is None:
            return Answer(404, _TEXT, _PATHS)
        return await route(scope)

    async def _send(self, scope: Scope, answer: Answer, send: Send) -> None:
        dressed = dataclasses.replace(answer, headers=self._dress(answer.headers))
        await _send(scope["method"], dressed, send)

    def _dress(self, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Add the configured headers, which replace ours of the same name."""
        ours = {name.lower(): value for name, value in headers}
        return tuple({**ours, **dict(self._access.headers)}.items())

    def _opens_stream(self, scope: Scope) -> bool:
        is_stream = scope["path"] == _STREAM and scope["method"] == "GET"
        return is_stream and not self._streams.is_full

    async def _metrics(self, scope: Scope) -> Answer:
        wanted = read_wanted(scope)
        began = time.perf_counter()
        others = await self._collectors.write(wanted)
        async with self._limiter:
            cut = take_cut(self._store.state)
            rendered = await trio.to_thread.run_sync(render, cut, wanted, others)
        self._store.note(SCRAPE_DURATION, (), time.perf_counter() - began)
        self._health.note_scrape()
        encoding = (("content-encoding", "gzip"),) if wanted.compressed else ()
        vary = ("vary", "accept, accept-encoding")
        return Answer(200, rendered.content_type, rendered.body, (*encoding, vary))

    async def _report_health(self, scope: Scope) -> Answer:
        well, body = await self._health.report()
        if scope["path"] == "/readyz" and not self._access.is_open:
            body = {"status": body["status"]}
        written = json.dumps(body, indent=2).encode() + b"\n"
        return Answer(200 if well else 503, _JSON, written)

    async def _report_alive(self, scope: Scope) -> Answer:
        del scope  # this event loop itself answers, which is the check
        return Answer(200, _TEXT, b"ok\n")

    async def _report_status(self, scope: Scope) -> Answer:
        del scope
        return Answer(200, _JSON, self._status.current(), _FRESH)

    async def _refuse_stream(self, scope: Scope) -> Answer:
        del scope  # a HEAD, or one stream too many
        return _FULL if self._streams.is_full else Answer(200, STREAM_TYPE, b"", _STREAM_HEADERS)

    async def _show_page(self, scope: Scope) -> Answer:
        file = PAGE[scope["path"]]
        tag = f'"{file.tag}"'
        headers = (*PAGE_HEADERS.items(), ("etag", tag))
        known = dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1")
        status = 304 if tag in known else 200
        return Answer(status, file.content_type, file.content, headers)


def _is_crowded(scope: Scope) -> bool:
    """Return whether the connection is beyond the limit, where only probes are answered."""
    connection = scope.get("state", {}).get(CONNECTION)
    return (
        connection is not None
        and connection.is_reserved
        and scope["path"] not in (*PROBES, "/health")
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
        limit = scope[LIMIT] = trio.CancelScope(deadline=trio.current_time() + _ANSWER_SECONDS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_late, scope, limit, nursery.cancel_scope, name="web deadline")
            await application(scope, receive, send)
            nursery.cancel_scope.cancel()

    return wrapped


async def _cut_late(scope: Scope, limit: trio.CancelScope, answering: trio.CancelScope) -> None:
    with limit:
        await trio.sleep_forever()
    connection: Connection = scope["state"][CONNECTION]
    _log.info("%s did not read its response in time", connection.address)
    connection.stream.abort()
    answering.cancel()


async def _send(method: str, answer: Answer, send: Send) -> None:
    headers = (
        ("content-type", answer.content_type),
        ("content-length", str(len(answer.body))),
        *answer.headers,
    )
    start = {"type": "http.response.start", "status": answer.status, "headers": _encode(headers)}
    await send(start)
    body = b"" if method == "HEAD" or answer.status == 304 else answer.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _encode(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers]


async def serve(
    application: Application,
    endpoint: Endpoint,
    guard: Guard[ExporterPart],
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until cancelled.

    Raises:
        OSError: The port cannot be bound.
    """
    never = trio.Event()
    await serve_http(_in_time(application), endpoint, guard, never, task_status=task_status)
