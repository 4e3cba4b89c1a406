"""The exporter's composition root: opens everything in order; its nested blocks are lifetimes."""

import functools
import gc
import ipaddress
import logging
import signal
from collections.abc import AsyncIterator, Callable, Container
from contextlib import closing
from pathlib import Path
from typing import Final

import trio

from exporter.errors import StartupError
from exporter.ingest.batches import refusal
from exporter.ingest.feed import Feed, open_feed
from exporter.ingest.socket import TelemetrySocket, open_socket
from exporter.journal.disk import watch_disk
from exporter.journal.opening import open_store
from exporter.journal.store import Store
from exporter.listeners import build_listeners, contained
from exporter.metrics.catalogue.exporter import EXPORTER_INTERNAL_ERRORS, ExporterPart
from exporter.metrics.catalogue.telemetry import REJECTED
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from exporter.status.status import Status
from exporter.web.access import Access
from exporter.web.collectors import Collectors
from exporter.web.health import HealthChecks
from exporter.web.registry import open_registry
from exporter.web.server import READER_SECONDS, Application, serve
from exporter.web.web_file import FollowedWeb
from shared import wire
from shared.groups import leaves
from shared.runtime.descriptors import fit_connections, raise_descriptor_limit
from shared.runtime.guard import Guard
from shared.runtime.http.server import Endpoint
from shared.runtime.notify import announce, notify, ping_watchdog
from shared.runtime.ports import wait_released
from shared.runtime.processes import reap_adopted
from shared.runtime.signals import stop_signals, watch_terminal
from shared.runtime.token_file import TokenFile, TokenFileError

_CONNECTIONS: Final = 256
"""Many times what Prometheus, some probes and a person need at once."""
_OTHER_DESCRIPTORS: Final = 128
"""Standard streams, the event loop, the journal, nng, and each node's connection."""

_log = logging.getLogger(__name__)


async def run(settings: ExporterSettings) -> None:
    """Run the exporter until SIGTERM, SIGINT or SIGHUP.

    Raises:
        StartupError: The exporter cannot start here (in a group).
    """
    settings.log()
    # This lock also protects the state directory.
    await wait_released((settings.host, settings.metrics_port))
    empty = functools.partial(
        State,
        settings.series_budget,
        settings.objectives,
        settings.buckets,
        settings.recorded_ratio,
    )
    store = open_store(settings.state_dir, empty, settings.node_timeout_seconds)
    with closing(store), trio.open_signal_receiver(*stop_signals()) as signals:
        await _run(settings, store, signals)


async def _run(settings: ExporterSettings, store: Store, signals: AsyncIterator[int]) -> None:
    """Run everything around the store until a signal."""
    guard: Guard[ExporterPart] = Guard(
        lambda part: store.note(EXPORTER_INTERNAL_ERRORS, (part,), 1)
    )
    health = HealthChecks(store, settings.engine_silence_seconds, guard)
    status = Status(store.state, health.last_report, settings.engine_silence_seconds)
    listeners = [*build_listeners(settings, store.note)]
    token_file = _open_token_file(settings)
    web = FollowedWeb(settings.web_config_file, store.state.web)
    access = _open_access(settings, token_file, web)
    collectors = Collectors(open_registry(store.state, settings.collectors).others, store)
    application = Application(store, health, status, access, collectors)
    # What the imports created lives as long as the process. Without the freeze, every full garbage
    # collection would scan it and block the event loop for milliseconds.
    gc.freeze()
    with (
        open_socket(settings.runtime_dir, settings.socket_group) as socket,
        open_feed(settings.runtime_dir) as feed,
    ):
        async with trio.open_nursery() as nursery:
            url = await _open_web(nursery, guard, settings, application, web)
            store.page_url = url
            _start_ingest(nursery, guard, store, socket, feed)
            _start_upkeep(nursery, guard, store, settings.state_dir)
            _start_process(nursery, guard)
            nursery.start_soon(guard, "health", health.run, name="health checks")
            nursery.start_soon(guard, "status", status.run, name="status history")
            for part, listening in listeners:
                store.listeners.append(contained(listening, part, guard))
                nursery.start_soon(guard, part, listening.run, name=part)
            if token_file is not None:
                nursery.start_soon(guard, "tokens", token_file.follow, name="token file")
            nursery.start_soon(guard, "web_config", web.follow, name="web configuration")
            _log.info("metrics on %s/metrics, telemetry from %s", url, settings.socket_path)
            nursery.start_soon(announce, "READY=1", f"X_URL={url}", name="announcement")
            number = await anext(signals)
            _log.info("%s: stopping the metrics exporter", signal.Signals(number).name)
            notify("STOPPING=1")
            nursery.cancel_scope.cancel()


def _start_ingest(
    nursery: trio.Nursery,
    guard: Guard[ExporterPart],
    store: Store,
    socket: TelemetrySocket,
    feed: Feed,
) -> None:
    """Start what takes batches from nodes and publishes them to local readers."""
    take = functools.partial(_take, store, feed, guard)
    nursery.start_soon(guard, "ingest", socket.receive, take, name="ingest")
    nursery.start_soon(guard, "socket_path", socket.keep_path, name="socket path")
    nursery.start_soon(guard, "feed", feed.keep_path, name="tail socket path")


def _start_upkeep(
    nursery: trio.Nursery, guard: Guard[ExporterPart], store: Store, state_dir: Path
) -> None:
    """Start what keeps the state current and durable."""
    nursery.start_soon(guard, "silence", store.watch_nodes, name="node silence")
    nursery.start_soon(guard, "journal", store.keep_journal, name="journal upkeep")
    space = (state_dir, store.state.storage)
    nursery.start_soon(guard, "disk", watch_disk, *space, name="disk space")


def _start_process(nursery: trio.Nursery, guard: Guard[ExporterPart]) -> None:
    """Start what every process does besides its work."""
    nursery.start_soon(guard, "watchdog", ping_watchdog, name="watchdog")
    nursery.start_soon(guard, "reaper", reap_adopted, name="reaper")
    nursery.start_soon(guard, "terminal", watch_terminal, name="terminal")


async def _take(
    store: Store,
    feed: Feed,
    guard: Guard[ExporterPart],
    message: bytes,
    pipe: int,
    live: Callable[[], Container[int]],
) -> wire.Reply:
    """Count a message and publish it to the feed.

    A message that triggers one of our own bugs is refused. Otherwise its node would resend it
    forever.
    """
    with guard.contain("ingest"):
        reply = await store.take(message, pipe, live)
        with guard.contain("feed"):
            if not reply.error:
                feed.publish(message)
        return reply
    store.note(REJECTED, ("internal",), 1)
    return refusal("internal")


def _open_token_file(settings: ExporterSettings) -> TokenFile | None:
    """Read the tokens that `/metrics` requires; None if it requires none."""
    if settings.metrics_token_file is not None:
        try:
            return TokenFile("--metrics-token-file", settings.metrics_token_file)
        except TokenFileError as error:
            raise StartupError(str(error)) from error
    return None


def _open_access(
    settings: ExporterSettings, token_file: TokenFile | None, web: FollowedWeb
) -> Access:
    access = Access(token_file.tokens if token_file else None, lambda: web.current)
    if access.is_open and not ipaddress.ip_address(settings.host).is_loopback:
        remedy = "set --metrics-token-file or --web-config-file"
        _log.warning("anyone who can reach %s can read the metrics: %s", settings.host, remedy)
    return access


async def _open_web(
    nursery: trio.Nursery,
    guard: Guard[ExporterPart],
    settings: ExporterSettings,
    application: Application,
    web: FollowedWeb,
) -> str:
    endpoint = Endpoint(
        host=settings.host,
        port=settings.metrics_port,
        connections=fit_connections(_CONNECTIONS, raise_descriptor_limit(), _OTHER_DESCRIPTORS),
        reader_seconds=READER_SECONDS,
        tls=web.tls,
    )
    try:
        url: str = await nursery.start(serve, application, endpoint, guard, name="web")
    except* OSError as group:
        message = (
            f"cannot listen on port {settings.metrics_port} of {settings.host} "
            f"({leaves(group)[0]}): choose another with --metrics-port"
        )
        raise StartupError(message) from group
    return url
