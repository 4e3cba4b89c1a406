"""Whether a node is there, what it is and what it offers."""

from collections.abc import Mapping
from typing import Final, get_args

from exporter.metrics.catalogue.family import NODE, counter, gauge
from shared.events.node import NodePart, NodeState

STATUS_CODES: Final[Mapping[NodeState, int]] = {
    "offline": 0,
    "online": 1,
    "busy": 2,
    "unknown": 3,
    "draining": 2,  # takes no request, like a busy node
}

NODE_STATUS: Final = gauge(
    "node_status", "Node status: 0 offline, 1 online, 2 busy, 3 unknown.", *NODE, derived=True
)
NODE_UPTIME: Final = gauge("node_uptime_seconds", "Seconds since the node's start.", *NODE)
NODE_RESOURCES: Final = gauge(
    "node_resources",
    "What the node contributes: cores, bytes of memory, layers that fit in memory, layers in use.",
    *NODE,
    "resource_type",
    resource_type=("cpu_cores", "memory_bytes", "max_layers", "used_layers"),
)
NODE_UP: Final = gauge("node_up", "1 while the node sends heartbeats, else 0.", *NODE, derived=True)
NODE_DEPARTED: Final = gauge(
    "node_departed",
    "1 if the node said goodbye and has not returned; 0 while it is up or if it was lost.",
    *NODE,
    derived=True,
)
NODE_START_TIME: Final = gauge(
    "node_start_time_seconds", "Start time of the node in Unix seconds.", *NODE
)
NODE_INFO: Final = gauge(
    "node_info", "Versions of the node, as labels; always 1.", *NODE, "version", "python", "engine"
)
NODE_ENDS: Final = counter(
    "node_ends_total",
    "Stops of the node: with a goodbye, or lost without one.",
    *NODE,
    "reason",
    reason=("goodbye", "lost"),
)
NODE_STATE: Final = gauge(
    "node_state",
    "1 for the node's current state, 0 for the others.",
    *NODE,
    "state",
    derived=True,
    state=get_args(NodeState),
)
NODE_INTERNAL_ERRORS: Final = counter(
    "node_internal_errors_total",
    "Unexpected errors in a part of the node that continued to run.",
    *NODE,
    "part",
    part=get_args(NodePart),
)
