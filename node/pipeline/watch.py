"""Reports the pipelines and their traffic, and has models tried again when the mesh has changed."""

from collections.abc import Callable, Iterator
from typing import Final

from node.engine.supervisor import Engine
from node.mesh.mesh import Mesh
from node.pipeline.coordinator import Coordinator
from node.pipeline.pipeline import Pipeline
from node.routing.peer_offers import PeerOffers
from node.serving.scheduler import Scheduler
from shared.events.event import Event
from shared.events.models import ModelLoadProgressed
from shared.events.pipelines import PipelineChanged, PipelineMoved, StageHeld
from shared.runtime.beats import sleep_to_beat

_LOOK_SECONDS: Final = 0.5


class PipelineWatch:
    """Looks at pipelines and offers twice a second.

    Args:
        coordinator: Has the pipelines of this node.
        scheduler: Has the engines.
        mesh: Knows this node.
        offers: Knows the peers' offers and pipelines.
        emit: Receives events.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        scheduler: Scheduler,
        mesh: Mesh,
        offers: PeerOffers,
        emit: Callable[[Event], None],
    ) -> None:
        self._coordinator = coordinator
        self._scheduler = scheduler
        self._mesh = mesh
        self._offers = offers
        self._emit = emit
        self._seen: object = None
        """The offers at the last look, without what changes with each request."""
        self._held: dict[str, int] = {}
        """Layers that this node holds for peers, by model, as last reported."""

    async def run(self) -> None:
        """Look regularly. Runs until cancelled."""
        while True:
            for event in (*self._traffic(), *self.levels(), *self._ended_stages()):
                self._emit(event)
            if (seen := self._look()) != self._seen:
                self._seen = seen
                for lane in self._scheduler.lanes:
                    lane.engine.retry()
            await sleep_to_beat(_LOOK_SECONDS)

    def levels(self) -> Iterator[Event]:
        """Yield the state of each pipeline of this node, and what it holds for peers."""
        for lane in self._scheduler.lanes:
            if (level := self._level(lane.engine)) is not None:
                yield level
        for model_id, layers in self._find_held().items():
            yield StageHeld(model_id, layers)

    def _level(self, engine: Engine) -> PipelineChanged | None:
        if stages := engine.model.stages:
            pipeline = self._coordinator.running.get(engine.model_id)
            opened = 1 + len(pipeline.tunnels) if pipeline else 0
            return PipelineChanged(
                engine.model_id,
                len(stages),
                len(stages) if engine.ready else min(opened, len(stages) - 1),
            )
        if engine.lacks_memory and self._coordinator.build:
            return PipelineChanged(engine.model_id, 0, 0)
        return None

    def _traffic(self) -> Iterator[Event]:
        """Yield what passed through the tunnels, and how far the weights of a load are."""
        engines = {lane.engine.model_id: lane.engine for lane in self._scheduler.lanes}
        for model_id, pipeline in self._coordinator.running.items():
            yield from _take_traffic(pipeline)
            if not engines[model_id].ready:
                total = pipeline.place.remote_bytes
                yield ModelLoadProgressed(model_id, "read", min(pipeline.sent_bytes, total), total)

    def _find_held(self) -> dict[str, int]:
        held: dict[str, int] = {}
        for peer in self._offers.known():
            if peer.view.state == "alive" and peer.offer is not None:
                for stage in peer.offer.stages:
                    if stage.node_id == self._mesh.node_id and stage.state == "up":
                        held[stage.model_id] = held.get(stage.model_id, 0) + stage.layers
        return held

    def _ended_stages(self) -> Iterator[Event]:
        held = self._find_held()
        for model_id in self._held.keys() - held.keys():
            yield StageHeld(model_id, 0)
        self._held = held

    def _look(self) -> object:
        return self._coordinator.build, [
            (
                peer.view.node_id,
                peer.view.state,
                peer.status,
                peer.offer and (peer.offer.rpc_build, peer.offer.memory_bytes, peer.offer.stages),
                [(m.model_id, m.state, m.elsewhere, m.held_bytes) for m in peer.models],
            )
            for peer in self._offers.known()
        ]


def _take_traffic(pipeline: Pipeline) -> Iterator[PipelineMoved]:
    for node_id, tunnel in pipeline.tunnels.items():
        traffic = tunnel.take_traffic()
        pipeline.sent_bytes += traffic.sent_bytes
        if traffic.sent_bytes or traffic.received_bytes or traffic.hop_seconds:
            yield PipelineMoved(
                pipeline.model_id,
                node_id,
                traffic.sent_bytes,
                traffic.received_bytes,
                traffic.hop_seconds,
            )
