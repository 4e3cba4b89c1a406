"""The exporter's HTTP: `/metrics`, `/health`, `/livez` and `/readyz`, as one ASGI application."""

import functools
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import hypercorn.trio
import trio
from hypercorn.config import Config

from exporter import catalogue as c
from exporter.cut import take_cut
from exporter.exposition import Wanted, render
from exporter.health import HealthChecks
from exporter.store import Store
from shared.secret import BearerTokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_RENDERERS: Final = 2
"""Scrapes that are rendered at once; further ones wait their turn."""
_OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})
"""What a probe asks, which cannot carry a token everywhere; `/readyz` says no more than yes or no
where one is set."""
_CHALLENGE: Final = ("www-authenticate", "Bearer")
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """A whole response."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Application:
    """The ASGI application.

    Args:
        store: What is shown.
        health: What is known of how things are.
        tokens: What `/metrics` and `/health` ask for; None for nothing.
    """

    def __init__(
        self, store: Store, health: HealthChecks, tokens: BearerTokens | None = None
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._health = health
        self._limiter = trio.CapacityLimiter(_RENDERERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
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
            case "/livez":  # answered by the loop that it asks about
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


def read_wanted(scope: Scope) -> Wanted:
    """Read from a request what its scrape wants."""
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope["query_string"].decode("latin-1"))
    codings = headers.get(b"accept-encoding", "").lower().split(",")
    return Wanted(
        openmetrics="application/openmetrics-text" in headers.get(b"accept", ""),
        compressed=any(_accepts_gzip(coding) for coding in codings),
        names=tuple(query.get("name[]", ())),
    )


def _accepts_gzip(coding: str) -> bool:
    name, _, weight = coding.replace(" ", "").partition(";")
    return name == "gzip" and weight.strip("0.") != "q="  # any way to write a weight of 0


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


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def serve(
    application: Application,
    host: str,
    port: int,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests; started with the URL once the port is bound. Runs until cancelled.

    Raises:
        OSError: The port cannot be had (in a group).
    """
    config = Config()
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    config.include_server_header = False
    config.graceful_timeout = 0.5
    config.errorlog = logging.getLogger("hypercorn.error")
    framework: Any = application
    run = functools.partial(
        hypercorn.trio.serve, framework, config, shutdown_trigger=trio.sleep_forever
    )
    async with trio.open_nursery() as nursery:
        urls: list[str] = await nursery.start(run, name="web")
        task_status.started(urls[0])
