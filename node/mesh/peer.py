"""What a node knows about one peer, and how long it waits while the peer is silent."""

from dataclasses import dataclass
from typing import Final

from node.mesh.addresses import is_address
from node.mesh.messages import Advert, Contact
from shared.events.mesh import PeerState
from shared.events.node import NodeState

ROUND_SECONDS: Final = 1.0
"""The shortest round."""
SUSPECT_SECONDS: Final = 0.5
"""A peer that is silent for a round and this long becomes suspect."""
DEAD_SECONDS: Final = 1.3
LOST_SECONDS: Final = 1.0
"""How long a peer whose connection broke has to reconnect."""
FORGET_SECONDS: Final[dict[PeerState, float]] = {"dead": 600.0, "left": 60.0, "incompatible": 30.0}
"""How long a dead peer is dialed. After that, a seed or another peer has to name it."""
NEWS_ROUNDS: Final = 3.0
"""How long surveys name a new peer."""
_PATIENCE_SECONDS: Final = 15.0
"""The longest extra wait, however late a loop is."""


def patience(lag_seconds: float) -> float:
    """Return how much longer to wait if either loop is late, which delays the answer as much."""
    return min(_PATIENCE_SECONDS, lag_seconds)


@dataclass(frozen=True)
class PeerView:
    """A copy of what is known about a peer."""

    node_id: str
    state: PeerState
    incarnation: int
    software: str
    address: str
    """The address at which its mesh was last reached; empty if it never was."""
    silent_seconds: float
    round_trip_seconds: float
    advert: Advert | None
    """The last advert; None for a node that uses another protocol."""


@dataclass
class Peer:
    """What is known about one peer."""

    node_id: str
    state: PeerState
    since: float
    """When that state began."""
    heard_at: float
    round_seconds: float = ROUND_SECONDS
    """The round in which it was heard: how soon the next message is due."""
    known: bool = False
    """Whether its state was ever reported."""
    incarnation: int = 0
    session: int = 0
    software: str = ""
    link: str = ""
    """The address at which it is dialed."""
    lost_at: float | None = None
    """When the connection there broke, unless the peer has been heard since."""
    joined_at: float = 0.0
    round_trip: float = 0.0
    advert: Advert | None = None

    @property
    def is_living(self) -> bool:
        """Whether it counts as a member now."""
        return self.state in ("alive", "suspect")

    @property
    def is_alive(self) -> bool:
        """Whether it has answered recently."""
        return self.state == "alive"

    @property
    def status(self) -> NodeState:
        """Its own report of its state."""
        return self.advert.status if self.advert else "unknown"

    @property
    def lag(self) -> float:
        """The lag of its event loop, as it reports."""
        return self.advert.lag_seconds if self.advert else 0.0

    def judge(self, now: float, own_lag: float) -> PeerState | None:
        """Return the state that follows from its silence; None if it is forgotten."""
        waited = patience(max(own_lag, self.lag))
        silence = now - self.heard_at - waited - self.round_seconds
        lost = 0.0 if self.lost_at is None else now - self.lost_at - waited
        if self.is_living:
            if silence > DEAD_SECONDS or lost > LOST_SECONDS:
                return "dead"
            if silence > SUSPECT_SECONDS or self.lost_at is not None:
                return "suspect"
            return self.state
        gone_at = self.heard_at if self.state == "incompatible" else self.since
        return None if now - gone_at > FORGET_SECONDS[self.state] else self.state

    def contact(self) -> Contact:
        """Return the contact that others need to ask it directly."""
        return Contact(self.node_id, self.incarnation, tuple(self._everywhere()[:2]))

    def addresses(self) -> list[str]:
        """Return the addresses to dial: the one at which it answers, else every possible one."""
        if self.state in ("left", "incompatible"):
            return []
        if self.state == "alive" and self.link:
            return [self.link]
        return self._everywhere()

    def _everywhere(self) -> list[str]:
        said = self.advert.addresses if self.advert else ()
        return [address for address in dict.fromkeys([self.link, *said]) if is_address(address)]

    def view(self, now: float) -> PeerView:
        """Return a copy."""
        return PeerView(
            self.node_id,
            self.state,
            self.incarnation,
            self.software,
            self.link,
            max(0.0, now - self.heard_at),
            self.round_trip,
            self.advert,
        )
