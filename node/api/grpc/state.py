"""The node's models, levels and peers as messages."""

import time
from collections.abc import Iterable
from typing import Final

from node.api.grpc.generated.distributed_llm.v1 import inference_pb as pb
from node.routing.peer_offers import PeerOffers
from node.serving.lane import Lane
from shared.events.event import Event
from shared.events.node import NodeStarted, NodeStateChanged, ResourcesSampled
from shared.events.system import SystemSampled

_MODEL_STATES: Final = {
    "unloaded": pb.ModelState.UNLOADED,
    "loading": pb.ModelState.LOADING,
    "ready": pb.ModelState.READY,
    "failed": pb.ModelState.FAILED,
}


def model(lane: Lane) -> pb.Model:
    """Return one model of this node."""
    engine = lane.engine
    message = pb.Model(
        id=engine.model_id,
        state=_MODEL_STATES[engine.state],
        context_length=engine.model.context_length,
    )
    if (described := engine.model.described) is not None:
        message.architecture = described.architecture
        message.quantization = described.quantization
        message.engine = described.engine
        message.size_bytes = described.size_bytes
        message.layers = described.layers
    return message


def resources(node_id: str, levels: Iterable[Event]) -> pb.GetResourcesResponse:
    """Return the node's levels, as in telemetry."""
    response = pb.GetResourcesResponse(node_id=node_id)
    for level in levels:
        match level:
            case NodeStarted():
                response.version = level.version
                response.uptime_seconds = time.time() - level.started_at
            case NodeStateChanged():
                response.state = level.state
            case ResourcesSampled():
                response.cpu_cores = level.cpu_cores
                response.memory_bytes = level.memory_bytes
                response.max_layers = level.max_layers
                response.used_layers = level.used_layers
            case SystemSampled():
                response.available_memory_bytes = level.available_bytes
                response.used_memory_bytes = level.rss_bytes + level.engine_rss_bytes
    return response


def peers(known: PeerOffers) -> list[pb.Peer]:
    """Return the other nodes."""
    return [
        pb.Peer(
            node_id=peer.view.node_id,
            api_url=peer.api_url,
            state=peer.view.state,
            status=peer.status,
            models=[offered.model_id for offered in peer.models],
        )
        for peer in known.known()
    ]
