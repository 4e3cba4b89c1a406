"""The exporter's composition root: opens everything in order; its nested blocks are lifetimes."""

import logging
import signal
from typing import Final

import sdnotify
import trio

from exporter.errors import StartupError
from exporter.health import HealthChecks
from exporter.ingest import Ingest, open_socket, receive
from exporter.settings import ExporterSettings
from exporter.state import State
from exporter.web import Application, serve

_TICK_SECONDS: Final = 0.25

_log = logging.getLogger(__name__)


async def run(settings: ExporterSettings) -> None:
    """Run the exporter until SIGTERM or SIGINT.

    Raises:
        StartupError: The exporter cannot start here (in a group).
    """
    state = State(settings.series_budget)
    ingest = Ingest(state, settings.node_timeout_seconds)
    health = HealthChecks(state)
    with (
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals,
        open_socket(settings.runtime_dir) as socket,
    ):
        async with trio.open_nursery() as nursery:
            url = await _open_web(nursery, Application(state, health), settings)
            nursery.start_soon(receive, socket, ingest, name="ingest")
            nursery.start_soon(_watch_nodes, ingest, name="node watch")
            nursery.start_soon(health.run, name="health checks")
            _log.info("metrics on %s/metrics, telemetry from %s", url, settings.socket_path)
            sdnotify.SystemdNotifier().notify(f"READY=1\nX_URL={url}")
            number = await anext(signals)
            _log.info("%s: the metrics exporter stops", signal.Signals(number).name)
            nursery.cancel_scope.cancel()


async def _open_web(
    nursery: trio.Nursery, application: Application, settings: ExporterSettings
) -> str:
    try:
        url: str = await nursery.start(
            serve, application, settings.host, settings.metrics_port, name="web"
        )
    except* OSError as group:
        message = (
            f"port {settings.metrics_port} on {settings.host} cannot be had "
            f"({group.exceptions[0]}): choose another with --metrics-port"
        )
        raise StartupError(message) from group
    return url


async def _watch_nodes(ingest: Ingest) -> None:
    """Notice nodes that fell silent. Runs until cancelled."""
    while True:
        ingest.expire(trio.current_time())
        await trio.sleep(_TICK_SECONDS)
