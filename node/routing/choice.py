"""Decides which node answers a request; no I/O."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

HERE: Final = ""
"""Stands for this node in the place of a peer's id."""


@dataclass(frozen=True)
class PeerModel:
    """A model that a peer has, as the peer's last advert says."""

    node_id: str
    model_id: str
    url: str
    """Of the peer's API."""
    loaded: bool
    in_flight: int
    slots: int
    fingerprint: str = ""
    """Of its file; empty while it is not known."""
    age_seconds: float = 0.0
    """How long ago the advert came."""


@dataclass(frozen=True)
class Candidate:
    """A node that could answer, as it looked last."""

    node_id: str
    """`HERE` for this one."""
    loaded: bool
    """Whether it has the model in memory; else it would load it first."""
    in_flight: int
    slots: int
    full: bool = False
    """Whether its queue is known to have no room."""
    peer: PeerModel | None = None
    """How to ask it; None for this node."""

    @property
    def is_free(self) -> bool:
        """Whether the request would be served at once."""
        return self.loaded and self.in_flight < self.slots

    @property
    def load(self) -> float:
        """Requests for each slot."""
        return self.in_flight / max(1, self.slots)


def choose(
    candidates: Iterable[Candidate], excluded: Collection[str] = frozenset()
) -> Candidate | None:
    """Return the node that is to answer; None where none can.

    This node while it is free; else a free one; else the one with the fewest requests for a slot,
    where a peer has to be better by a whole request to be worth the way. One that has the model in
    memory comes before one that would have to load it, and one with room before one without.
    """
    usable = [each for each in candidates if each.node_id not in excluded]
    return min(usable, key=_rank, default=None)


def _rank(candidate: Candidate) -> tuple[bool, bool, bool, float, str]:
    way = 0 if candidate.node_id == HERE else 1
    return (
        candidate.full,
        not candidate.loaded,
        not candidate.is_free,
        way * 0.5 if candidate.is_free else candidate.load + way,
        candidate.node_id,
    )
