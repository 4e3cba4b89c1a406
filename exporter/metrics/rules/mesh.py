"""Peers, and the messages between nodes."""

from collections.abc import Iterator
from typing import Final

from exporter.metrics.catalogue.mesh import (
    NETWORK_BYTES,
    NETWORK_CONNECTIONS,
    NETWORK_ERRORS,
    NETWORK_LATENCY,
    NETWORK_MESSAGES,
    PEER_STATUS,
)
from exporter.metrics.catalogue.node import STATUS_CODES
from exporter.metrics.rules.rule import Column, GroupRule, Rule, Sample, nothing
from shared.events.event import Event
from shared.events.mesh import (
    MessagesMoved,
    NetworkFailed,
    PeerAnswered,
    PeerChanged,
    PeerForgotten,
    PeerPage,
    PeersCounted,
)
from shared.events.node import NodeState


def _peer_changed(node: str, e: PeerChanged) -> tuple[Sample, ...]:
    status: NodeState = "offline" if e.state in ("dead", "left") else "unknown"
    if e.state == "alive":
        status = e.status
    return ((PEER_STATUS, (node, e.peer), STATUS_CODES[status]),)


def _peers_counted(node: str, counted: list[PeersCounted]) -> Iterator[Column]:
    yield NETWORK_CONNECTIONS, (node, "alive"), [e.alive for e in counted]
    yield NETWORK_CONNECTIONS, (node, "suspect"), [e.suspect for e in counted]


def _peer_answered(node: str, e: PeerAnswered) -> tuple[Sample, ...]:
    return ((NETWORK_LATENCY, (node, e.peer, e.operation), e.seconds),)


def _messages_moved(node: str, e: MessagesMoved) -> tuple[Sample, ...]:
    return (
        (NETWORK_MESSAGES, (node, e.direction, e.message_type), e.count),
        (NETWORK_BYTES, (node, e.direction), e.size_bytes),
    )


def _network_failed(node: str, e: NetworkFailed) -> tuple[Sample, ...]:
    return ((NETWORK_ERRORS, (node, e.reason), e.count),)


RULES: Final[dict[type[Event], Rule]] = {
    PeerChanged: _peer_changed,
    PeerForgotten: nothing,  # removes series
    PeerAnswered: _peer_answered,
    MessagesMoved: _messages_moved,
    NetworkFailed: _network_failed,
    PeerPage: nothing,  # kept for the status page
}
GROUP_RULES: Final[dict[type[Event], GroupRule]] = {
    PeersCounted: _peers_counted,
}
