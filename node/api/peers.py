"""The other nodes, as the API shows them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from shared.events import NodeState, PeerState


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another node, as this one knows it."""

    node_id: str
    api_url: str
    state: PeerState
    """What this node holds of it."""
    status: NodeState
    """What it says of itself."""
    models: tuple[str, ...] = ()
    """Ids of the models that it serves."""


class Peers(Protocol):
    """Who knows the other nodes."""

    def known(self) -> Iterable[Peer]:
        """Give each peer as it is now."""
