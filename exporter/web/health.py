"""The exporter's health checks: what they test, how long they take, and the overall result."""

import contextlib
import http.client
import logging
import math
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio

from exporter.journal.store import Store
from exporter.metrics.catalogue.engine import ENGINE_SILENCE
from exporter.metrics.catalogue.exporter import ExporterPart
from exporter.metrics.catalogue.health import HEALTH_CHECK_LATENCY, HEALTH_CHECKS
from exporter.metrics.cut import take_cut
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Node
from exporter.web.exposition import Wanted, render
from shared.runtime.guard import Guard

SERVING: Final = ("online", "busy")
CHECK_SECONDS: Final = 5.0
RENDER_SECONDS: Final = 60.0
"""How often the render check renders if nothing scrapes; at 90,000 series it takes a second."""
FRESH_SECONDS: Final = 1.0
_ADVISORY: Final = frozenset({"journal"})
"""Checks whose failure is reported but does not mean unhealthy: the node serves, counting
continues."""
_API_TIMEOUT_SECONDS: Final = 2.0
_TOLD_BYTES: Final = 64 * 1024
"""Limit for the node's response: it may have hundreds of models."""
_REASON_CHARACTERS: Final = 1000
_UNREADY: Final = ("loading", "failed")

_log = logging.getLogger(__name__)


class CheckFailedError(Exception):
    """A check found a fault; the text says which."""


class _Told(msgspec.Struct):
    """The models as the node's `/health` reports them."""

    engines: dict[str, str]
    faults: dict[str, str] = {}
    """Why models cannot be loaded, where that is known."""


_told_decoder = msgspec.json.Decoder(_Told)


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    check: str
    reason: str
    """Empty if all is well."""
    at: float
    """On the exporter's monotonic clock."""
    seconds: float


class HealthChecks:
    """Runs the checks on a schedule and keeps each one's last outcome.

    Args:
        store: Knows the nodes and counts the checks.
        engine_silence_seconds: Work without progress for this long is a stall.
        guard: Contains unexpected errors of the checks.
    """

    def __init__(
        self, store: Store, engine_silence_seconds: float, guard: Guard[ExporterPart]
    ) -> None:
        self._guard = guard
        self._engine_silence_seconds = engine_silence_seconds
        self._turns = trio.Lock()
        self._checked_at = -math.inf
        self._store = store
        self._state = store.state
        self._outcomes: dict[str, Outcome] = {}
        self._seen_well: set[str] = set()
        self._rendered_at = -math.inf
        self._checks: dict[str, Callable[[], Any]] = {
            "events": self._check_events,
            "node_api": self._check_node_api,
            "engine": self._check_engine,
            "journal": self._check_journal,
            "render": self._check_render,
        }

    async def run(self) -> None:
        """Run every check periodically. Runs until cancelled."""
        while True:
            await self._run_all()
            await trio.sleep(CHECK_SECONDS)

    def note_scrape(self) -> None:
        """Record that the exposition was rendered, so that the check can skip one turn."""
        self._rendered_at = trio.current_time()

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the exporter and the nodes are healthy, with each check's outcome.

        The call runs the checks, but at most once a second however often it is called.
        """
        await self._run_all()
        return self.last_report()

    def last_report(self) -> tuple[bool, dict[str, Any]]:
        """Return the same from the checks' last outcomes, without running them."""
        now = trio.current_time()
        nodes = {node.node_id: self._describe(node, now) for node in self._state.nodes.values()}
        faults = [
            f"node {name}: {node['state']}"
            for name, node in nodes.items()
            if node["up"] and node["state"] not in SERVING
        ]
        failed = [outcome for outcome in self._outcomes.values() if outcome.reason]
        faults += [f"{o.check}: {o.reason}" for o in failed if o.check not in _ADVISORY]
        warnings = [f"{o.check}: {o.reason}" for o in failed if o.check in _ADVISORY]
        body = {
            "status": "failed" if faults else "degraded" if warnings else "ok",
            "reasons": [*faults, *warnings],
            "nodes": nodes,
            "checks": {o.check: _write(o, now) for o in self._outcomes.values()},
        }
        return not faults, body

    async def _run_all(self) -> None:
        async with self._turns:
            if trio.current_time() - self._checked_at < FRESH_SECONDS:
                return
            for check in self._checks:
                await self._run(check)
            self._checked_at = trio.current_time()

    async def _run(self, check: str) -> None:
        began = time.perf_counter()
        with self._guard.contain("health") as unit:
            reason = await self._find_fault(check)
        if unit.error is not None:
            reason = f"the check itself failed: {unit.error!r}"
        seconds = time.perf_counter() - began
        before = self._outcomes.get(check)
        if before is not None and before.reason != reason:
            # A check that never succeeded is still starting: that is not worth a warning.
            level = logging.WARNING if check in self._seen_well and reason else logging.INFO
            _log.log(level, "health check %s: %s", check, reason or "ok")
        if not reason:
            self._seen_well.add(check)
        self._outcomes[check] = Outcome(check, reason, trio.current_time(), seconds)
        self._store.note(HEALTH_CHECKS, (check, "failed" if reason else "ok"), 1)
        self._store.note(HEALTH_CHECK_LATENCY, (check,), seconds)

    async def _find_fault(self, check: str) -> str:
        """Return the fault that a check found; empty if all is well."""
        try:
            await self._checks[check]()
        except CheckFailedError as error:
            return str(error)
        return ""

    async def _check_events(self) -> None:
        if not self._state.nodes:
            raise CheckFailedError("no node has reported")
        now = trio.current_time()
        if doubled := [n.node_id for n in self._state.nodes.values() if n.is_doubled(now)]:
            raise CheckFailedError(f"two live nodes are named {', '.join(doubled)}")
        if silent := _missed(list(self._state.nodes.values())):
            raise CheckFailedError(f"no events from {', '.join(silent)}")

    async def _check_node_api(self) -> None:
        for node in list(self._state.nodes.values()):
            if not node.up:
                continue
            if not node.api_url:
                raise CheckFailedError(f"node {node.node_id} has not reported its API's address")
            await trio.to_thread.run_sync(_ask, node.api_url, abandon_on_cancel=True)

    async def _check_engine(self) -> None:
        for (node_id, model_id), seconds in self._state.values(ENGINE_SILENCE).items():
            if seconds > self._engine_silence_seconds:
                raise CheckFailedError(
                    f"model {model_id} on {node_id} has work and made no progress "
                    f"for {seconds:.0f} s"
                )

    async def _check_journal(self) -> None:
        storage = self._state.storage
        if not storage.durable:
            raise CheckFailedError(f"counts would not survive a restart: {storage.failure}")

    async def _check_render(self) -> None:
        if trio.current_time() - self._rendered_at < RENDER_SECONDS:
            return
        cut = take_cut(self._state)
        rendered = await trio.to_thread.run_sync(render, cut, Wanted())
        if not rendered.body.endswith(b"\n"):
            raise CheckFailedError("the exposition is cut short")
        self.note_scrape()

    @staticmethod
    def _describe(node: Node, now: float) -> dict[str, Any]:
        silent = None if node.heard_at is None else round(now - node.heard_at, 3)
        return {"up": node.up, "state": node.state, "silent_seconds": silent}


def _missed(nodes: list[Node]) -> list[str]:
    """Return the nodes that should be up; one that said goodbye need not be, if another is."""
    served = any(node.up for node in nodes)
    return [n.node_id for n in nodes if not n.up and not (n.departed and served)]


def _write(outcome: Outcome, now: float) -> dict[str, Any]:
    return {
        "status": "failed" if outcome.reason else "ok",
        "reason": outcome.reason,
        "age_seconds": round(now - outcome.at, 3),
        "latency_seconds": round(outcome.seconds, 6),
    }


def _ask(url: str) -> None:
    """Ask the node's API for its health. Blocks, at most for the timeout."""
    try:
        connection = _connect(url)
    except (ValueError, http.client.InvalidURL) as error:
        raise CheckFailedError(f"the node reports its API at {url!r}: {error}") from error
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            with connection.getresponse() as response:
                status = response.status
                told = b"" if status == http.client.OK else response.read(_TOLD_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CheckFailedError(f"the API at {url} does not answer: {error}") from error
    if status != http.client.OK:
        raise CheckFailedError(f"the API at {url} answers {status}{_explain(told)}")


def _explain(told: bytes) -> str:
    """Return why a node's engines are not ready, as the node says; empty if that is unreadable."""
    try:
        models = _told_decoder.decode(told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    unready = [model for model, state in models.engines.items() if state in _UNREADY]
    told_of = (": ".join(filter(None, _words(models, model))) for model in unready)
    return clean_label(f" ({', '.join(told_of)})", _REASON_CHARACTERS) if unready else ""


def _words(models: _Told, model: str) -> tuple[str, str, str]:
    return model, models.engines[model], models.faults.get(model, "")


def _connect(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    host, port = address.hostname or "", address.port
    if address.scheme != "https":
        return http.client.HTTPConnection(host, port or 80, timeout=_API_TIMEOUT_SECONDS)
    # The certificate is not verified: it names the host that clients use, and this check uses an
    # address that the node reported over a socket that only its user can open. Nothing secret is
    # sent. An impostor that could listen there could also lie in plain text.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(
        host, port or 443, timeout=_API_TIMEOUT_SECONDS, context=unverified
    )
