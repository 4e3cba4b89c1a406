"""Peers, and the messages between nodes."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import NETWORK_BUCKETS, NODE, counter, gauge, histogram
from shared.events.mesh import Direction, MessageType, NetworkFault, PeerOperation

NETWORK_CONNECTIONS: Final = gauge(
    "network_connections",
    "Connected peers, by their state as this node sees it.",
    *NODE,
    "state",
    state=("alive", "suspect"),
)
NETWORK_MESSAGES: Final = counter(
    "network_messages_total",
    "Messages between nodes.",
    *NODE,
    "direction",
    "message_type",
    direction=get_args(Direction),
    message_type=get_args(MessageType),
)
NETWORK_LATENCY: Final = histogram(
    "network_latency_seconds",
    NETWORK_BUCKETS,
    "Seconds until a peer answered.",
    *NODE,
    "target_node",
    "operation",
    operation=get_args(PeerOperation),
)
NETWORK_BYTES: Final = counter(
    "network_bytes_total",
    "Bytes of messages between nodes.",
    *NODE,
    "direction",
    direction=get_args(Direction),
)
NETWORK_ERRORS: Final = counter(
    "network_errors_total",
    "Refused messages and failed exchanges between nodes, by reason.",
    *NODE,
    "reason",
    reason=get_args(NetworkFault),
)
PEER_STATUS: Final = gauge(
    "peer_status",
    "Status of a peer as this node sees it: 0 offline, 1 online, 2 busy, 3 unknown.",
    *NODE,
    "peer",
)
