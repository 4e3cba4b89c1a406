"""Builds the parts of a node; `node.main` gives them their lifetimes."""

import importlib.metadata
import logging
import secrets
from dataclasses import dataclass
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
from node.lanes import add_models, threads_of
from node.memory import Memory, room_bytes
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
from node.serving.catalogue import Model, list_models
from node.serving.scheduler import Limits, Scheduler
from node.settings import NodeSettings
from node.telemetry.outbox import Outbox
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
    outbox = Outbox(settings.node_id, secrets.token_hex(8), trio.current_time())
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
    memory = Memory(scheduler, lender, programs, settings)
    trust = PeerTrust(settings.peer_ca_file, settings.peer_tls_name)
    tunnels = Tunnels(signer or Signer(("",)), trust)
    coordinator = Coordinator(mesh, peer_offers, memory.room_bytes, tunnels.open, outbox.emit)
    add_models(models, memory, coordinator, speed.emit)
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


def _build_programs(signer: Signer | None, settings: NodeSettings) -> Programs:
    """Return what runs workers; nothing in a mesh that cannot authenticate its nodes."""
    server = settings.llama_server
    return Programs(server.absolute() if server is not None and signer is not None else None)


def _build_lender(
    programs: Programs, scheduler: Scheduler, settings: NodeSettings, emit: Emit
) -> Lender:
    threads, places = threads_of(settings)
    limit_bytes = settings.memory_limit_bytes
    options = LenderOptions(
        threads=threads,
        places=places,
        cache=settings.state_dir / "tensors",
        cache_bytes=machine.limited_memory_bytes(limit_bytes),
        cpu_only=settings.gpu_layers == 0,
    )
    lender = Lender(programs, options, lambda: room_bytes(scheduler, lender, limit_bytes), emit)
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
