"""What the exporter knows of each node and of each run of it."""

import math
from dataclasses import dataclass, field
from typing import Final

from exporter.metrics import catalogue as c
from shared.events import NodeState

CONFLICT_SECONDS: Final = 10.0

Labels = tuple[str, ...]


@dataclass
class Session:
    """One run of a node: what of it is counted."""

    name: str
    applied: int = 0
    """Events counted."""
    sequence: int = 0
    """The highest sequence number counted."""
    totals: dict[tuple[str, Labels], float] = field(default_factory=dict)
    """Running totals as last heard, by family and labels."""

    @property
    def lost(self) -> float:
        """Events emitted, not dropped and not applied."""
        emitted = sum(v for (name, _), v in self.totals.items() if name == c.EMITTED.name)
        dropped = sum(v for (name, _), v in self.totals.items() if name == c.DROPPED.name)
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
    """Models described in this session and not unloaded since."""
    heard_at: float | None = None
    """On the exporter's monotonic clock; None until it is heard in this process."""
    pipe: int = -1
    """The connection that it was last heard on."""
    conflict_at: float = -math.inf
    """When another live node with its name was last refused, on the monotonic clock."""
    lost_before: float = 0.0
    """Events lost in sessions that are forgotten."""
    heard_time: float = 0.0
    """Unix time."""
    lag_seconds: float = 0.0
    departed: bool = False
    """Whether it said goodbye the last time that it was heard."""

    def is_doubled(self, now: float) -> bool:
        """Whether another live node with this one's name has spoken lately."""
        return now - self.conflict_at < CONFLICT_SECONDS

    @property
    def lost(self) -> float:
        """Events that a session emitted, did not drop, and that were never applied."""
        return self.lost_before + sum(session.lost for session in self.sessions.values())
