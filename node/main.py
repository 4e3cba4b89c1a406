"""The node's composition root: opens everything in order; its nested blocks are the lifetimes."""

import importlib.metadata
import itertools
import logging
import math
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import sdnotify
import trio

from node import machine, watchdog
from node.api.app import build_app
from node.api.cluster import MeshPeers, add_cluster
from node.api.forwarded import add_forwarded
from node.api.protection import Protection
from node.api.rpc.application import beside, build_services
from node.api.rpc.health import HealthService
from node.api.rpc.inference import InferenceService
from node.api.server import Door, serve
from node.carrier import open_carrier
from node.engine.protocol import Described
from node.engine.supervisor import Engine, EngineOptions, Watcher
from node.errors import RequestError, StartupError
from node.forward.client import PeerClient
from node.forward.peers import MeshModels
from node.forward.router import NoPeers, Router
from node.forward.signature import Signer
from node.inference.generation import Emit
from node.inference.lane import Lane, LaneOptions
from node.inference.models import Model, find_shortage, list_models
from node.inference.scheduler import Limits, Scheduler
from node.mesh.identity import kept_node_id
from node.mesh.local import LocalAdvert
from node.mesh.member import MeshOptions
from node.mesh.mesh import Mesh, open_mesh
from node.mesh.options import read_options
from node.mesh.speed import SpeedMeter
from node.models.download import fetch
from node.outbox import Outbox
from node.progress import Progress
from node.settings import NodeSettings
from node.state import NodeStatus
from node.system import watch_loop_lag
from shared.settings import APPLICATION

_PROMPT_CHUNK_TOKENS: Final = 32
_CLOSING_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


async def run(settings: NodeSettings) -> None:
    """Run the node until SIGTERM or SIGINT, then drain and end.

    Telemetry is the outermost block, so that the last event of every part is still carried. The
    API opens before the model is loaded, and says so when it is asked.

    Raises:
        StartupError: The node cannot start here (in a group).
    """
    version = importlib.metadata.version(APPLICATION)
    settings = replace(settings, node_id=kept_node_id(settings.node_id, settings.state_dir))
    mesh_options = read_options(settings, version)
    outbox = Outbox(
        settings.node_id,
        secrets.token_hex(8),
        trio.current_time(),
        events_limit=settings.buffer_events,
        backlog_bytes=settings.buffer_bytes,
    )
    models = list_models(settings.model, settings.models_dir)
    speed = SpeedMeter(outbox.emit)
    scheduler = _build_scheduler(models, settings, speed.emit)
    status = NodeStatus(version, scheduler, outbox.emit)
    scheduler.on_change = status.note_change
    mesh = Mesh(LocalAdvert(version, status, scheduler, speed), outbox.emit)
    signer = _build_signer(settings, mesh_options)
    router = _build_router(scheduler, mesh, signer, settings, outbox)
    framework: Any = build_app(scheduler, router, status, models[0].model_id)
    add_cluster(framework, mesh)
    if signer is not None:
        add_forwarded(framework, scheduler, signer, outbox.emit)
    stop_serving = trio.Event()
    services = build_services(
        InferenceService(
            scheduler,
            router,
            status,
            MeshPeers(mesh),
            node_id=settings.node_id,
            default_model=models[0].model_id,
        ),
        HealthService(status, stop_serving),
        outbox.emit,
    )
    protection = Protection(beside(framework, services), settings)

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            open_carrier(
                outbox,
                settings.socket_path,
                settings.flush_seconds,
                lambda: itertools.chain(status.levels(), mesh.levels()),
            ),
            open_mesh(mesh, mesh_options),
            trio.open_nursery() as work,
        ):
            async with trio.open_nursery() as serving:
                serving.start_soon(
                    _stop_on_signal, signals, router, settings, stop_serving, serving
                )
                work.start_soon(watch_loop_lag, outbox.emit, name="loop lag")
                work.start_soon(status.run, name="sampler")
                await work.start(router.run, name="router")
                work.start_soon(watchdog.run, name="watchdog")
                for lane in scheduler.lanes:
                    work.start_soon(lane.run, name=f"lane of {lane.engine.model_id}")
                    work.start_soon(lane.engine.run, name=f"engine of {lane.engine.model_id}")
                status.api_url = await _open_api(
                    serving, protection, settings, outbox, stop_serving
                )
                outbox.emit(status.identity())
                _log.info("API on %s", status.api_url)
                await _load(scheduler, models)
                sdnotify.SystemdNotifier().notify(f"READY=1\nX_URL={status.api_url}")
            work.cancel_scope.cancel()
    _log.info("the node has stopped")


def _build_scheduler(models: list[Model], settings: NodeSettings, emit: Emit) -> Scheduler:
    """Give each model its engine and its lane; the composition root runs them."""
    limits = Limits(output_tokens=settings.max_output_tokens, seconds=settings.request_seconds)
    scheduler = Scheduler(emit, limits)

    def find_room(described: Described) -> str:
        loaded = sum(lane.engine.weights_bytes for lane in scheduler.lanes)
        return find_shortage(described, loaded, machine.available_memory_bytes())

    cores = machine.usable_cores()
    threads = settings.threads or machine.engine_threads(cores)
    turns = trio.CapacityLimiter(max(1, int(cores) // threads))
    watcher = Watcher(emit, find_room, scheduler.note_change)
    options = LaneOptions(
        queue_limit=settings.queue, idle_seconds=settings.idle_unload_seconds or math.inf
    )
    for model in models:
        engine = Engine(model.model_id, _engine_options(model, threads, settings, emit), watcher)
        engine.resident = model.resident
        scheduler.add(Lane(engine, options, turns, emit, scheduler.note_change))
    return scheduler


def _build_signer(settings: NodeSettings, options: MeshOptions) -> Signer | None:
    """Give what proves to other nodes who asks; None where requests stay on this node.

    Without a secret anybody on this machine could ask in a node's name, which is as much as the
    API allows if it asks for no key, and a way around the key if it does.
    """
    if options.secrets or not (settings.api_key_file or settings.tls_client_ca_file):
        return Signer(options.secrets or ("",))
    if options.seeds:
        _log.warning("no request is sent to another node or taken from one: set --mesh-secret-file")
    return None


def _build_router(
    scheduler: Scheduler,
    mesh: Mesh,
    signer: Signer | None,
    settings: NodeSettings,
    outbox: Outbox,
) -> Router:
    peers = NoPeers() if signer is None else MeshModels(mesh)
    try:
        client = PeerClient(signer or Signer(("",)), settings.peer_ca_file)
    except OSError as error:
        raise StartupError(f"--peer-ca-file {settings.peer_ca_file}: {error}") from error
    return Router(scheduler, peers, client, outbox.emit)


async def _load(scheduler: Scheduler, models: list[Model]) -> None:
    """Load what is to be there from the start, one after the other.

    Raises:
        StartupError: One cannot be loaded.
    """
    for model in models:
        if model.resident:
            _log.info("loading model %s from %s", model.model_id, model.source)
            try:
                await scheduler.load(model.model_id)
            except RequestError as error:
                if scheduler.draining:
                    return
                raise StartupError(f"model {model.model_id} cannot be served: {error}") from error
            _log.info("model %s is ready", model.model_id)


async def _open_api(
    serving: trio.Nursery,
    protection: Protection,
    settings: NodeSettings,
    outbox: Outbox,
    stop: trio.Event,
) -> str:
    door = Door(
        host=settings.host,
        port=settings.api_port,
        connections=settings.connections,
        reader_seconds=settings.reader_seconds,
        body_seconds=settings.body_seconds,
    )
    try:
        url: str = await serving.start(serve, protection, door, outbox.emit, stop, name="api")
    except* OSError as group:
        cause = group.exceptions[0]
        message = (
            f"port {settings.api_port} on {settings.host} cannot be had ({cause}): "
            "choose another with --api-port"
        )
        raise StartupError(message) from group
    return url


async def _stop_on_signal(
    signals: AsyncIterator[int],
    router: Router,
    settings: NodeSettings,
    stop_serving: trio.Event,
    serving: trio.Nursery,
) -> None:
    """Drain at the first signal, hurry at the second. Ends when the API is told to close."""
    number = await anext(signals)
    _log.info("%s: draining for up to %s s", signal.Signals(number).name, settings.drain_seconds)
    sdnotify.SystemdNotifier().notify("STOPPING=1")
    async with trio.open_nursery() as draining:
        draining.start_soon(_hurry, signals, draining)
        await router.drain(settings.drain_seconds)
        draining.cancel_scope.cancel()
    router.end()
    stop_serving.set()
    # Also ends a load that is still under way.
    serving.cancel_scope.deadline = trio.current_time() + _CLOSING_SECONDS


async def _hurry(signals: AsyncIterator[int], draining: trio.Nursery) -> None:
    await anext(signals)
    draining.cancel_scope.cancel()


def _engine_options(
    model: Model, threads: int, settings: NodeSettings, emit: Emit
) -> EngineOptions:
    async def locate() -> Path:
        if isinstance(model.source, Path):
            return model.source
        with closing(Progress(model.model_id, "download", emit)) as progress:
            return await fetch(model.source, progress.note)

    return EngineOptions(
        path=str(model.source),
        context_length=settings.context_length,
        prompt_limit=settings.max_prompt_tokens,
        threads=threads,
        batch_tokens=_PROMPT_CHUNK_TOKENS,
        load_seconds=settings.load_seconds,
        stall_seconds=settings.stall_seconds,
        locate=locate,
    )
