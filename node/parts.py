"""Builds the parts of a node; `node.main` gives them their lifetimes."""

import importlib.metadata
import logging
import math
import secrets
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from node import machine
from node.api.edge.owner import own
from node.api.edge.protection import Protection
from node.api.grpc.application import beside, build_services
from node.api.grpc.health import HealthService
from node.api.grpc.inference import InferenceService
from node.api.http.app import build_app
from node.api.http.cluster import add_cluster
from node.api.http.forwarded import add_forwarded
from node.api.http.lent import add_lent
from node.api.http.paths import tidy_paths
from node.engine.buffers import BATCH_TOKENS
from node.engine.ctransformers.process import open_child
from node.engine.describe import describe
from node.engine.link import Link
from node.engine.llama_cpp.flags import split_flags
from node.engine.llama_cpp.options import LlamaOptions
from node.engine.llama_cpp.process import open_llama_server
from node.engine.llama_cpp.socket_path import writable_directory
from node.engine.options import EngineOptions, Watcher
from node.engine.protocol import Described, EngineName
from node.engine.supervisor import Engine
from node.engine.upstream.address import Address
from node.engine.upstream.options import upstream_options
from node.mesh.mesh import Mesh
from node.mesh.options import MeshOptions, read_options
from node.pipeline.build import Programs
from node.pipeline.coordinator import Coordinator
from node.pipeline.lender import Lender, LenderOptions
from node.pipeline.remote import Tunnels
from node.pipeline.watch import PipelineWatch
from node.requests.account import Emit
from node.routing.client import PeerClient
from node.routing.layer_levels import LayerLevels
from node.routing.own_offer import OwnOffer
from node.routing.peer_offers import PeerOffers
from node.routing.peers import NoPeers
from node.routing.router import Router
from node.routing.signature import Signer
from node.routing.speed import SpeedMeter
from node.routing.trust import PeerTrust
from node.serving.catalogue import Model, find_shortage, list_models
from node.serving.downloads.download import fetch
from node.serving.lane import Lane, LaneOptions
from node.serving.scheduler import Limits, Scheduler
from node.settings import NodeSettings
from node.telemetry.outbox import Outbox
from node.telemetry.progress import Progress
from node.telemetry.status import NodeStatus
from shared.events.node import InternalError, NodePart
from shared.runtime.descriptors import fit_connections, raise_descriptor_limit
from shared.runtime.guard import Guard
from shared.settings.base import APPLICATION

_OTHER_DESCRIPTORS: Final = 64
"""Standard streams, the event loop, nng's own, files that are read; a guess with some margin."""
_MODEL_DESCRIPTORS: Final = 8
"""An engine's pipes and its process, twice because a replacement may overlap."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a node before anything runs."""

    settings: NodeSettings
    outbox: Outbox
    guard: Guard[NodePart]
    models: list[Model]
    scheduler: Scheduler
    status: NodeStatus
    mesh: Mesh
    mesh_options: MeshOptions
    peer_offers: PeerOffers
    layer_levels: LayerLevels
    signer: Signer | None
    """None if this node does not exchange requests with other nodes."""
    router: Router
    programs: Programs
    lender: Lender
    pipelines: PipelineWatch
    connections: int
    """Limit of connections to the API."""


def build_parts(settings: NodeSettings) -> Parts:
    """Build a node. Reads the files that the settings name, but opens nothing.

    Raises:
        StartupError: A file cannot be used, or the settings contradict each other.
    """
    version = importlib.metadata.version(APPLICATION)
    mesh_options = read_options(settings, version)
    outbox = Outbox(
        settings.node_id,
        secrets.token_hex(8),
        trio.current_time(),
    )
    guard: Guard[NodePart] = Guard(lambda part: outbox.emit(InternalError(part)))
    models = list_models(settings.model, settings.models_dir, settings.wanted)
    speed = SpeedMeter(outbox.emit)
    limits = Limits(output_tokens=settings.max_output_tokens, seconds=settings.request_seconds)
    scheduler = Scheduler(speed.emit, limits)
    status = NodeStatus(version, scheduler, outbox.emit)
    scheduler.on_change = status.note_change
    signer = _build_signer(settings, mesh_options)
    limit_bytes = settings.memory_limit_bytes
    programs = _build_programs(signer, settings)
    lender = _build_lender(programs, scheduler, settings, outbox.emit)
    own_offer = OwnOffer(status, scheduler, speed, lambda: lender.build, limit_bytes)
    mesh = Mesh(own_offer, outbox.emit)
    peer_offers = PeerOffers(mesh, outbox.emit)
    memory = _Memory(scheduler, lender, programs, settings)
    trust = PeerTrust(settings.peer_ca_file, settings.peer_tls_name)
    tunnels = Tunnels(signer or Signer(("",)), trust)
    coordinator = Coordinator(mesh, peer_offers, memory.room_bytes, tunnels.open, outbox.emit)
    _add_models(models, memory, coordinator, speed.emit)
    return Parts(
        settings=settings,
        outbox=outbox,
        guard=guard,
        models=models,
        scheduler=scheduler,
        status=status,
        mesh=mesh,
        mesh_options=mesh_options,
        peer_offers=peer_offers,
        layer_levels=LayerLevels(mesh, peer_offers, settings.replicas),
        signer=signer,
        router=_build_router(scheduler, peer_offers, signer, trust, outbox, guard),
        programs=programs,
        lender=lender,
        pipelines=PipelineWatch(coordinator, scheduler, mesh, peer_offers, outbox.emit),
        connections=_fit_connections(settings, len(models)),
    )


def _fit_connections(settings: NodeSettings, models: int) -> int:
    """Return how many API connections the remaining descriptors allow.

    Half of the remaining descriptors are reserved for the mesh and for requests to peers.
    """
    limit = raise_descriptor_limit()
    others = _OTHER_DESCRIPTORS + models * _MODEL_DESCRIPTORS
    return fit_connections(settings.connections, limit, others + max(0, limit - others) // 2)


def build_api(parts: Parts, stop_serving: trio.Event) -> Protection:
    """Build the HTTP and gRPC API behind its access checks.

    Args:
        parts: The node's parts.
        stop_serving: Set when the API is about to close.

    Raises:
        StartupError: A file of keys or certificates cannot be used.
    """
    scheduler, router, status = parts.scheduler, parts.router, parts.status
    default_model = parts.models[0].model_id
    framework: Any = build_app(scheduler, router, status, default_model)
    add_cluster(framework, parts.mesh, parts.peer_offers)
    if parts.signer is not None:
        add_forwarded(framework, router, parts.signer, parts.outbox.emit)
        node_id = parts.settings.node_id
        add_lent(framework, parts.lender, node_id, parts.signer, parts.outbox.emit)
    inference = InferenceService(
        scheduler,
        router,
        status,
        parts.peer_offers,
        node_id=parts.settings.node_id,
        default_model=default_model,
    )
    health = HealthService(status, stop_serving)
    services = build_services(inference, health, parts.outbox.emit)
    application = own(beside(tidy_paths(framework), services))
    return Protection(application, parts.settings, parts.outbox.emit)


@dataclass(frozen=True)
class _Memory:
    """Knows what memory is left for one more model or worker."""

    scheduler: Scheduler
    lender: Lender
    programs: Programs
    settings: NodeSettings

    def room_bytes(self) -> int:
        """Return the memory that the loaded models and the workers leave."""
        return _room_bytes(self.scheduler, self.lender, self.settings.memory_limit_bytes)

    def find_room(self, described: Described) -> str:
        """Return why there is no room for a model; empty if there is."""
        may_use_gpu = self.settings.may_use_gpu and self.programs.may_use_gpu
        if may_use_gpu and described.engine == "llama.cpp":
            return ""  # llama-server itself fails if neither memory is enough
        return find_shortage(described, self.room_bytes())


def _add_models(models: list[Model], memory: _Memory, coordinator: Coordinator, emit: Emit) -> None:
    """Build each model's engine and lane; the composition root runs them."""
    scheduler, settings = memory.scheduler, memory.settings

    def note_engine() -> None:
        # The levels of a model end with its engine; requests may wait for the next engine.
        for lane in scheduler.lanes:
            lane.tell_load()
        scheduler.note_change()

    threads, engines = _threads_of(settings)
    turns = trio.CapacityLimiter(engines)
    watcher = Watcher(emit, memory.find_room, note_engine, coordinator.place)
    options = LaneOptions(
        queue_limit=settings.queue, idle_seconds=settings.idle_unload_seconds or math.inf
    )
    for model in models:
        engine_options = _engine_options(model, threads, memory, coordinator, emit)
        needed = trio.CapacityLimiter(1) if model.is_elsewhere else turns  # it needs no cores here
        engine = Engine(model.model_id, engine_options, watcher)
        engine.resident = model.resident
        scheduler.add(Lane(engine, options, needed, emit, scheduler.note_change))


def _room_bytes(scheduler: Scheduler, lender: Lender, limit_bytes: int) -> int:
    """Return the memory that the loaded models and the workers leave."""
    # Their files are in the page cache, which the system counts as available although they are in
    # use.
    loaded = sum(lane.engine.weights_bytes for lane in scheduler.lanes)
    room = machine.available_memory_bytes() - loaded
    if limit_bytes:
        held = sum(lane.engine.held_bytes for lane in scheduler.lanes)
        room = min(room, limit_bytes - held - lender.held_bytes)
    return max(0, room)


def _threads_of(settings: NodeSettings) -> tuple[int, int]:
    """Return the threads of an engine, and how many engines the cores can run at once."""
    cores = machine.usable_cores()
    threads = settings.threads or machine.engine_threads(cores)
    return threads, max(1, int(cores) // threads)


def _build_programs(signer: Signer | None, settings: NodeSettings) -> Programs:
    """Return what runs workers; nothing in a mesh that cannot authenticate its nodes."""
    server = settings.llama_server
    return Programs(server.absolute() if server is not None and signer is not None else None)


def _build_lender(
    programs: Programs, scheduler: Scheduler, settings: NodeSettings, emit: Emit
) -> Lender:
    threads, places = _threads_of(settings)
    limit_bytes = settings.memory_limit_bytes

    def room_bytes() -> int:
        return _room_bytes(scheduler, lender, limit_bytes)

    options = LenderOptions(
        threads=threads,
        places=places,
        cache=settings.state_dir / "tensors",
        cache_bytes=machine.limited_memory_bytes(limit_bytes),
        cpu_only=settings.gpu_layers == 0,
    )
    lender = Lender(programs, options, room_bytes, emit)
    return lender


def _build_signer(settings: NodeSettings, options: MeshOptions) -> Signer | None:
    """Return the signer that authenticates nodes; None if requests stay on this node.

    Without a secret, any process on this machine could send requests as a node. If the API requires
    no key, that grants nothing new; if it does, that would bypass the key.
    """
    if options.secrets or not (settings.api_key_file or settings.tls_client_ca_file):
        return Signer(options.secrets or ("",))
    if options.seeds:
        _log.warning("requests are not exchanged with other nodes: set --mesh-secret-file")
    return None


def _build_router(
    scheduler: Scheduler,
    peer_offers: PeerOffers,
    signer: Signer | None,
    trust: PeerTrust,
    outbox: Outbox,
    guard: Guard[NodePart],
) -> Router:
    peers = NoPeers() if signer is None else peer_offers
    client = PeerClient(signer or Signer(("",)), trust)
    return Router(scheduler, peers, client, outbox.emit, guard)


def _engine_options(
    model: Model,
    threads: int,
    memory: _Memory,
    coordinator: Coordinator,
    emit: Emit,
) -> EngineOptions:
    settings = memory.settings
    if isinstance(model.source, Address):
        return upstream_options(model.source, model.model_id, model.wanted, settings.stall_seconds)
    source = model.source

    async def locate() -> Path:
        if isinstance(source, Path):
            return source
        with closing(Progress(model.model_id, "download", emit)) as progress:
            return await fetch(source, progress.note)

    def llama() -> LlamaOptions:
        return LlamaOptions(
            writable_directory(settings.runtime_dir, settings.state_dir),
            model.model_id,
            settings.llama_server,
            settings.gpu_layers,
            split_flags(settings.llama_server_args),
        )

    def open_link(engine: EngineName) -> AbstractAsyncContextManager[Link]:
        return open_child() if engine == "ctransformers" else open_llama_server(llama())

    return EngineOptions(
        place=model.place,
        locate=locate,
        describe=lambda path: describe(path, model.wanted, memory.room_bytes()),
        open_link=open_link,
        open_pipeline=lambda place: coordinator.open(model.model_id, place, llama()),
        threads=threads,
        batch_tokens=BATCH_TOKENS,
        load_seconds=settings.load_seconds,
        stall_seconds=settings.stall_seconds,
    )
