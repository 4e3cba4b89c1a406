"""What a node holds of one peer, and how long it waits for one that is silent."""

from dataclasses import dataclass
from typing import Final

from node.mesh.addresses import is_address
from node.mesh.messages import Advert, Contact
from shared.events import NodeState, PeerState

ROUND_SECONDS: Final = 1.0
"""The shortest round."""
SUSPECT_SECONDS: Final = 0.5
"""Silent for so much longer than a round, a peer is suspect."""
DEAD_SECONDS: Final = 1.3
LOST_SECONDS: Final = 1.0
"""A peer whose connection broke gets so long to be there again."""
FORGET_SECONDS: Final[dict[PeerState, float]] = {"dead": 600.0, "left": 60.0, "incompatible": 30.0}
"""A dead peer is asked again for as long; after that a seed or another peer has to name it."""
NEWS_ROUNDS: Final = 3.0
"""A new peer is told of in surveys for so long."""
_PATIENCE_SECONDS: Final = 15.0
"""Who says that its loop is later than this is waited for no longer."""


def patience(lag_seconds: float) -> float:
    """Tell how much longer to wait where one of the two loops is late: an answer is as late."""
    return min(_PATIENCE_SECONDS, lag_seconds)


@dataclass(frozen=True)
class PeerView:
    """A peer, to look at."""

    node_id: str
    state: PeerState
    incarnation: int
    software: str
    address: str
    """Where its mesh was last reached; empty for one that never was."""
    silent_seconds: float
    round_trip_seconds: float
    advert: Advert | None
    """The last one heard; None for a node of another protocol."""


@dataclass
class Peer:
    """What is known of one peer."""

    node_id: str
    state: PeerState
    since: float
    """When that state began."""
    heard_at: float
    round_seconds: float = ROUND_SECONDS
    """The round in which it was heard: how soon it should be heard again."""
    known: bool = False
    """Whether anybody was told of it yet."""
    incarnation: int = 0
    session: int = 0
    software: str = ""
    link: str = ""
    """The address that it is dialed at."""
    lost_at: float | None = None
    """When the connection there broke, unless it has been heard since."""
    joined_at: float = 0.0
    round_trip: float = 0.0
    advert: Advert | None = None

    @property
    def is_living(self) -> bool:
        """Whether it counts as a member now."""
        return self.state in ("alive", "suspect")

    @property
    def status(self) -> NodeState:
        """What it says of itself."""
        return self.advert.status if self.advert else "unknown"

    @property
    def lag(self) -> float:
        """How late it says that its loop is."""
        return self.advert.lag_seconds if self.advert else 0.0

    def judge(self, now: float, own_lag: float) -> PeerState | None:
        """Give the state that its silence puts it in; None for forgotten."""
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
        """Give what others need to ask it themselves."""
        own = self.advert.addresses if self.advert else ()
        addresses = dict.fromkeys([self.link, *own] if self.link else own)
        return Contact(self.node_id, self.incarnation, tuple(addresses)[:2])

    def addresses(self) -> list[str]:
        """Give where to dial it: where it answers, or else wherever it might."""
        if self.state in ("left", "incompatible"):
            return []
        if self.state == "alive" and self.link:
            return [self.link]
        said = self.advert.addresses if self.advert else ()
        return [address for address in dict.fromkeys([self.link, *said]) if is_address(address)]

    def view(self, now: float) -> PeerView:
        """Copy it, to look at."""
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
