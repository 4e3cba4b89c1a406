"""The node's composition root: opens everything in order; its nested blocks are the lifetimes.

`node.parts` builds the parts.
"""

import gc
import logging
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Final

import trio

from node.api.edge.protection import Protection
from node.api.edge.server import serve
from node.certificates import certificate_levels
from node.engine.loading import CannotLoadError
from node.errors import HeldElsewhereError, RequestError, StartupError
from node.mesh.mesh import open_mesh
from node.parts import Parts, build_api, build_parts
from node.settings import NodeSettings
from node.telemetry.carrier import open_carrier
from node.telemetry.system import watch_loop_lag
from shared.events.event import Event
from shared.groups import leaves
from shared.runtime.notify import announce, notify, ping_watchdog
from shared.runtime.ports import wait_released
from shared.runtime.processes import reap_adopted
from shared.runtime.signals import stop_signals, watch_terminal

_CLOSING_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


async def run(settings: NodeSettings) -> None:
    """Run the node until SIGTERM, SIGINT or SIGHUP, then drain and end.

    Telemetry is the outermost block, so that the last event of every part is still sent. The API
    opens before the model is loaded, and reports that state when asked.

    Raises:
        StartupError: The node cannot start here (in a group).
    """
    settings = settings.with_node_id()
    settings.log()
    parts = build_parts(settings)
    outbox, status, mesh = parts.outbox, parts.status, parts.mesh
    stop_serving = trio.Event()
    protection = build_api(parts, stop_serving)
    mesh_certificate = list(certificate_levels("mesh", settings.mesh_tls_cert_file))
    await wait_released(
        (settings.host, settings.api_port), (parts.mesh_options.host, settings.mesh_port)
    )

    with trio.open_signal_receiver(*stop_signals()) as signals:
        async with (
            open_carrier(
                outbox,
                settings.socket_path,
                lambda: _levels(parts, protection, mesh_certificate),
                parts.guard,
                parts.scheduler.accounts.report,
                status.note_page,
            ),
            open_mesh(mesh, parts.mesh_options, parts.guard),
            trio.open_nursery() as work,
        ):
            async with trio.open_nursery() as serving:
                serving.start_soon(_stop_on_signal, signals, parts, stop_serving, serving)
                await _start_parts(work, parts)
                status.api_url = await _open_api(serving, protection, parts, stop_serving)
                outbox.emit(status.identity())
                # What exists now lives as long as the process. Without the freeze, every full
                # collection of garbage would scan it and stop all streams for tens of milliseconds.
                gc.freeze()
                _log.info("API on %s", status.api_url)
                await _load(parts)
                await announce("READY=1", f"X_URL={status.api_url}")
            work.cancel_scope.cancel()
    _log.info("the node has stopped")


def _levels(
    parts: Parts, protection: Protection, mesh_certificate: Iterable[Event]
) -> Iterator[Event]:
    """Yield the current value of every level of the node."""
    yield from parts.status.levels()
    yield from parts.mesh.levels()
    yield from parts.peer_offers.levels()
    yield from parts.layer_levels()
    yield from parts.lender.levels()
    yield from parts.pipelines.levels()
    yield from protection.levels()
    yield from mesh_certificate


async def _start_parts(work: trio.Nursery, parts: Parts) -> None:
    """Start the tasks that run until the node has drained; ends when the router runs."""
    guard = parts.guard
    work.start_soon(guard, "loop_lag", watch_loop_lag, parts.outbox.emit, name="loop lag")
    work.start_soon(guard, "sampler", parts.status.run, name="sampler")
    work.start_soon(guard, "watchdog", ping_watchdog, name="watchdog")
    work.start_soon(guard, "reaper", reap_adopted, name="reaper")
    work.start_soon(guard, "terminal", watch_terminal, name="terminal")
    work.start_soon(guard, "workers", parts.programs.run, name="workers")
    work.start_soon(guard, "pipelines", parts.pipelines.run, name="pipelines")
    await work.start(guard, "router", parts.router.run, name="router")
    for lane in parts.scheduler.lanes:
        model_id = lane.engine.model_id
        work.start_soon(guard, "lane", lane.run, guard, name=f"lane of {model_id}")
        work.start_soon(guard, "engine", lane.engine.run, name=f"engine of {model_id}")


async def _load(parts: Parts) -> None:
    """Load the models that must be in memory from the start, one after the other.

    A model that other nodes may help to hold is loaded when they are there.

    Raises:
        StartupError: A model cannot be loaded.
    """
    scheduler = parts.scheduler
    for model in parts.models:
        if model.is_elsewhere:  # its server may start after this node, and is waited for
            scheduler.find(model.model_id).engine.want()
        elif model.resident:
            _log.info("loading model %s from %s", model.model_id, model.place)
            try:
                await scheduler.load(model.model_id)
            except HeldElsewhereError:
                continue
            except RequestError as error:
                if parts.programs.has_program and not isinstance(error, CannotLoadError):
                    _log.warning("model %s is not loaded yet: %s", model.model_id, error)
                    continue
                if scheduler.draining:
                    return
                raise StartupError(f"model {model.model_id} cannot be served: {error}") from error
            _log.info("model %s is ready", model.model_id)


async def _open_api(
    serving: trio.Nursery,
    protection: Protection,
    parts: Parts,
    stop: trio.Event,
) -> str:
    settings, emit = parts.settings, parts.outbox.emit
    try:
        url: str = await serving.start(
            serve, protection, settings, parts.connections, emit, stop, parts.guard, name="api"
        )
    except* OSError as group:
        cause = leaves(group)[0]
        message = (
            f"cannot listen on port {settings.api_port} of {settings.host} ({cause}): "
            "choose another with --api-port"
        )
        raise StartupError(message) from group
    return url


async def _stop_on_signal(
    signals: AsyncIterator[int],
    parts: Parts,
    stop_serving: trio.Event,
    serving: trio.Nursery,
) -> None:
    """Drain at the first signal, hurry at the second. Ends when the API is told to close."""
    settings, router = parts.settings, parts.router
    number = await anext(signals)
    _log.info("%s: draining for up to %s s", signal.Signals(number).name, settings.drain_seconds)
    notify("STOPPING=1")
    parts.lender.drain()
    async with trio.open_nursery() as draining:
        draining.start_soon(_hurry, signals, draining)
        await router.drain(settings.drain_seconds)
        draining.cancel_scope.cancel()
    router.end()
    stop_serving.set()
    # This also ends a load that is still running.
    serving.cancel_scope.deadline = trio.current_time() + _CLOSING_SECONDS


async def _hurry(signals: AsyncIterator[int], draining: trio.Nursery) -> None:
    async for number in signals:
        if number != signal.SIGHUP:  # a closing terminal sends it more than once
            draining.cancel_scope.cancel()
