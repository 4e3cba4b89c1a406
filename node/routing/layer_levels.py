"""Reports what the plan for the whole mesh achieves for each of this node's models."""

from collections.abc import Iterator

from node.engine.shape import even_shape
from node.mesh.mesh import Mesh
from node.routing.holders import Holder, Member, read_holders
from node.routing.offer import OfferedModel
from node.routing.peer_offers import PeerOffers
from node.routing.plan import can_be_planned, make_plan
from shared.events.models import LayersPlanned


class LayerLevels:
    """Yields the levels of the plan.

    Args:
        mesh: Knows this node.
        peers: Knows what this node and the others offer.
        replicas: On how many nodes to place a model that fits on one.
    """

    def __init__(self, mesh: Mesh, peers: PeerOffers, replicas: int) -> None:
        self._mesh = mesh
        self._peers = peers
        self._replicas = replicas

    def __call__(self) -> Iterator[LayersPlanned]:
        """Yield the level of each model whose header was read."""
        own = self._peers.own()
        if own is None:
            return
        members = [Member(self._mesh.node_id, own, self._mesh.advert().status)]
        members += [
            Member(peer.view.node_id, peer.offer, peer.status)
            for peer in self._peers.known()
            if peer.view.state == "alive"
        ]
        for model in own.models:
            if can_be_planned(model.layers):
                yield self._level(model, read_holders(members, model.model_id))

    def _level(self, model: OfferedModel, holders: list[Holder]) -> LayersPlanned:
        shape = even_shape(
            model.size_bytes, model.layers, model.position_bytes, model.context_length
        )
        plan = make_plan(shape, holders, self._replicas)
        return LayersPlanned(model.model_id, plan.layers, plan.unserved)
