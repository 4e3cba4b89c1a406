"""What the exporter knows of each node and of each of its sessions."""

import math
from dataclasses import dataclass, field
from typing import Final

from exporter.metrics.catalogue.telemetry import DROPPED, EMITTED
from shared.events.node import NodeState

CONFLICT_SECONDS: Final = 10.0

Labels = tuple[str, ...]


@dataclass
class Session:
    """One session of a node: how much of it is counted."""

    name: str
    applied: int = 0
    """Events counted."""
    sequence: int = 0
    """The highest sequence number counted."""
    totals: dict[tuple[str, Labels], float] = field(default_factory=dict)
    """Latest running totals, by family and labels."""

    @property
    def lost(self) -> float:
        """Events emitted, not dropped and not applied."""
        emitted = sum(v for (name, _), v in self.totals.items() if name == EMITTED.name)
        dropped = sum(v for (name, _), v in self.totals.items() if name == DROPPED.name)
        return max(0.0, emitted - dropped - self.applied)


@dataclass
class Node:
    """What is known of one node."""

    node_id: str
    sessions: dict[str, Session] = field(default_factory=dict)
    current: str = ""
    state: NodeState = "unknown"
    up: bool = False
    api_url: str = ""
    models: set[str] = field(default_factory=set)
    """Models described in this session and not yet unloaded."""
    pages: dict[str, str] = field(default_factory=dict)
    """URLs of the status pages of its peers."""
    heard_at: float | None = None
    """On the exporter's monotonic clock; None until the node is heard from in this process."""
    pipe: int = -1
    """The connection that it last used."""
    conflict_at: float = -math.inf
    """When another live node of the same name was last refused, on the monotonic clock."""
    lost_before: float = 0.0
    """Events lost in forgotten sessions."""
    heard_time: float = 0.0
    """Unix time."""
    lag_seconds: float = 0.0
    departed: bool = False
    """Whether its last message was a goodbye."""

    def is_doubled(self, now: float) -> bool:
        """Return whether another live node of this name has sent something lately."""
        return now - self.conflict_at < CONFLICT_SECONDS

    @property
    def lost(self) -> float:
        """Return the events that a session emitted, did not drop, and that were never applied."""
        return self.lost_before + sum(session.lost for session in self.sessions.values())
