"""Decides which node answers a request; no I/O."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

HERE: Final = ""
"""This node, in place of a peer's id."""


@dataclass(frozen=True)
class PeerModel:
    """A model on a peer, as in the peer's last advert."""

    node_id: str
    model_id: str
    url: str
    """URL of the peer's API."""
    loaded: bool
    in_flight: int
    slots: int
    fingerprint: str = ""
    """Fingerprint of its file; empty while unknown."""
    age_seconds: float = 0.0
    """Age of the advert."""
    context_length: int = 0
    """Tokens in the context of a request; 0 while unknown."""


@dataclass(frozen=True)
class Candidate:
    """A node that could answer, as last known."""

    node_id: str
    """`HERE` for this node."""
    loaded: bool
    """Whether the model is in memory; otherwise the node would load it first."""
    in_flight: int
    slots: int
    full: bool = False
    """Whether its queue is known to be full."""
    defers: bool = False
    """Whether it leaves the model to another node: it is asked only if no other can be."""
    peer: PeerModel | None = None
    """How to ask it; None for this node."""

    @property
    def is_free(self) -> bool:
        """Whether it would start the request at once."""
        return self.loaded and self.in_flight < self.slots

    @property
    def load(self) -> float:
        """Requests per slot."""
        return self.in_flight / max(1, self.slots)


def choose(
    candidates: Iterable[Candidate], excluded: Collection[str] = frozenset()
) -> Candidate | None:
    """Return the node that should answer; None if none can.

    This node comes first while it is free, then a free peer, then the node with the fewest requests
    per slot. A busy peer must be better by a whole request to be worth the network hop. A node with
    the model in memory comes before one that would have to load it, and one with room in its queue
    before one without.
    """
    usable = [each for each in candidates if each.node_id not in excluded]
    return min(usable, key=_rank, default=None)


def _rank(candidate: Candidate) -> tuple[bool, bool, bool, bool, float, str]:
    way = 0 if candidate.node_id == HERE else 1
    return (
        candidate.defers,
        candidate.full,
        not candidate.loaded,
        not candidate.is_free,
        way * 0.5 if candidate.is_free else candidate.load + way,
        candidate.node_id,
    )
