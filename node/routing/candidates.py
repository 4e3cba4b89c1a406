"""The nodes that could answer a request: this one, and the peers that have its model."""

import logging
from collections.abc import Iterator
from typing import Final

import trio

from node.requests.request import is_other_model
from node.routing.choice import HERE, Candidate, PeerModel, choose
from node.routing.loads import PeerLoads
from node.routing.peers import Peers
from node.serving.lane import Lane
from node.serving.scheduler import Scheduler

_WARNED: Final = 1000
"""Limit of the peers that are remembered; past it, some are reported again."""

_log = logging.getLogger(__name__)


class Candidates:
    """Finds the candidates of each request.

    Args:
        scheduler: Knows the models of this node.
        peers: Knows those of the others.
        loads: Knows how busy the others are.
    """

    def __init__(self, scheduler: Scheduler, peers: Peers, loads: PeerLoads) -> None:
        self._scheduler = scheduler
        self._peers = peers
        self._loads = loads
        self._warned: set[tuple[str, str]] = set()
        """Peers whose model was already reported as a different one of the same name."""

    def is_for_peer(self, model_id: str) -> bool:
        """Return whether a request should wait at a peer instead of in a queue here."""
        lane = self.lane(model_id)
        if lane is not None and lane.engine.ready and not lane.is_full:
            return False
        chosen = choose(self.find(model_id))
        return chosen is not None and chosen.peer is not None

    def lane(self, model_id: str) -> Lane | None:
        """Return the model's lane here, if it accepts requests."""
        open_lanes = (lane for lane in self._scheduler.lanes if not lane.closed)
        return next((lane for lane in open_lanes if lane.engine.model_id == model_id), None)

    def find(self, model_id: str, fingerprint: str = "") -> Iterator[Candidate]:
        """Yield the nodes that could answer, or continue what this fingerprint's model began."""
        lane = self.lane(model_id)
        own = lane.engine.model.fingerprint if lane else ""
        if lane is not None and not is_other_model(fingerprint, own):
            load = lane.load()
            yield Candidate(
                HERE,
                lane.engine.ready,
                load.in_flight,
                load.slots_total,
                full=lane.is_full,
                defers=lane.engine.defers,
            )
        for peer in self._peers.find(model_id):
            if is_other_model(fingerprint or own, peer.fingerprint):
                self._warn_of_other(peer)
                continue
            in_flight = self._loads.in_flight(peer, trio.current_time())
            yield Candidate(peer.node_id, peer.loaded, in_flight, peer.slots, peer=peer)

    def _warn_of_other(self, peer: PeerModel) -> None:
        """Log once that a peer has a different model of the same name."""
        if (peer.node_id, peer.fingerprint) in self._warned:
            return
        if len(self._warned) >= _WARNED:
            self._warned.clear()
        self._warned.add((peer.node_id, peer.fingerprint))
        _log.warning(
            "model %s on %s has other weights than elsewhere: that node cannot replace "
            "the others; rename one of the models",
            peer.model_id,
            peer.node_id,
        )
