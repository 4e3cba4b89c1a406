"""Peers, and the messages between nodes."""

from typing import Literal

from shared.events.event import Event
from shared.events.node import NodeState

PeerState = Literal["alive", "suspect", "dead", "left", "incompatible"]
Direction = Literal["sent", "received"]
MessageType = Literal["survey", "answer", "leave", "forward"]
PeerOperation = Literal["survey", "forward"]
NetworkFault = Literal[
    "unauthenticated",
    "stale",
    "malformed",
    "incompatible",
    "oversize",
    "timeout",
    "connection",
    "lookup",
    "conflict",
    "overflow",
]


class PeerChanged(Event, frozen=True, tag=19):
    """This node's view of a peer changed. A level."""

    peer: str
    """The peer's node id."""
    state: PeerState
    status: NodeState
    """The state that the peer reports about itself."""


class PeerForgotten(Event, frozen=True, tag=20):
    """A departed peer was forgotten; its series are removed."""

    peer: str


class PeerPage(Event, frozen=True, tag=31):
    """Where a peer's status page is. A level, removed together with the peer."""

    peer: str
    url: str
    """As it can be reached from this node."""


class PeersCounted(Event, frozen=True, tag=21):
    """The number of connected peers. A level."""

    alive: int
    suspect: int


class PeerAnswered(Event, frozen=True, tag=22):
    """A peer answered a survey after `seconds`."""

    peer: str
    operation: PeerOperation
    seconds: float


class MessagesMoved(Event, frozen=True, tag=23):
    """Messages of one kind that were sent or received since the last such event."""

    direction: Direction
    message_type: MessageType
    count: int
    size_bytes: int
    """Total size of these messages."""


class NetworkFailed(Event, frozen=True, tag=24):
    """The mesh refused something, or failed, `count` times since the last such event."""

    reason: NetworkFault
    count: int
