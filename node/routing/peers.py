"""The view of the other nodes that routing needs."""

from collections.abc import Sequence
from typing import Protocol

from node.routing.choice import PeerModel


class Peers(Protocol):
    """Knows the other nodes."""

    def find(self, model_id: str) -> Sequence[PeerModel]:
        """Return the peers that have a model and accept requests."""

    def models(self) -> set[str]:
        """Return the names of the peers' models."""

    def is_living(self, node_id: str) -> bool:
        """Return whether a peer is still considered a member."""


class NoPeers(Peers):
    """The peers of a node that answers alone."""

    def find(self, model_id: str) -> Sequence[PeerModel]:
        """Return no peers."""
        del model_id
        return ()

    def models(self) -> set[str]:
        """Return no models."""
        return set()

    def is_living(self, node_id: str) -> bool:
        """Return False."""
        del node_id
        return False
