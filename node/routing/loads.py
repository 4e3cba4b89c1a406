"""Estimates how busy peers are: their adverts, corrected by this node's own requests. No I/O."""

import math
from dataclasses import dataclass, field
from typing import Final

from node.routing.choice import PeerModel

_WRITTEN_SECONDS: Final = 0.3
"""An advert may be this old when it arrives."""

Key = tuple[str, str]
"""The ids of a node and a model."""


@dataclass
class Sent:
    """One request that was sent to a peer."""

    began_at: float
    ended_at: float = math.inf


@dataclass
class _Record:
    sent: list[Sent] = field(default_factory=list)
    refused_at: float = -math.inf


class PeerLoads:
    """This node's own requests at peers."""

    def __init__(self) -> None:
        self._records: dict[Key, _Record] = {}

    def send(self, peer: PeerModel, now: float) -> Sent:
        """Record that a request goes to a peer; the caller ends it."""
        sent = Sent(now)
        self._record(peer).sent.append(sent)
        return sent

    def refuse(self, peer: PeerModel, now: float) -> None:
        """Record that a peer refused a request: it does not count as free until its next advert."""
        self._record(peer).refused_at = now

    def in_flight(self, peer: PeerModel, now: float) -> int:
        """Return how many requests a peer probably has in progress.

        Too low an estimate costs a request that the peer refuses at once. Too high an estimate
        leaves the peer idle until its next advert.
        """
        record = self._records.get(_key(peer))
        if record is None:
            return peer.in_flight
        heard_at = now - peer.age_seconds
        written_at = heard_at - _WRITTEN_SECONDS
        record.sent = [sent for sent in record.sent if sent.ended_at >= written_at]
        if not record.sent and record.refused_at < heard_at:
            del self._records[_key(peer)]
        known = sum(sent.began_at <= heard_at for sent in record.sent)
        unknown = sum(sent.ended_at == math.inf for sent in record.sent)
        estimate = max(0, peer.in_flight - known) + unknown
        return max(estimate, peer.slots) if record.refused_at >= heard_at else estimate

    def _record(self, peer: PeerModel) -> _Record:
        return self._records.setdefault(_key(peer), _Record())


def _key(peer: PeerModel) -> Key:
    return peer.node_id, peer.model_id
