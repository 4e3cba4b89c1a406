"""All series and nodes, moved by events.

Plain data that changes only by `apply` and the calls beside it, one batch at a time, so that a
copy taken between two batches is a consistent cut.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from exporter.metrics.catalogue.mesh import PEER_STATUS
from exporter.metrics.catalogue.telemetry import EVENTS
from exporter.metrics.conditions import Storage, WebCondition
from exporter.metrics.exemplars import exemplify
from exporter.metrics.grouping import sort_by_kind
from exporter.metrics.nodes import Node, Session
from exporter.metrics.objectives import Objectives
from exporter.metrics.samples import are_sound, read_samples
from exporter.metrics.series import Series
from shared.events.event import Event
from shared.events.mesh import PeerForgotten, PeerPage
from shared.events.models import ModelDescribed, ModelLoadFailed, ModelUnloaded
from shared.events.node import NodeStarted, NodeStateChanged
from shared.events.requests import InferenceFinished

ENDED_KEPT: Final = 25

_OBJECTIVES: Final = Objectives()


class Ended(NamedTuple):
    """A request that ended."""

    at: float
    """Unix time at which the exporter received the event."""
    node_id: str
    event: InferenceFinished


class State(Series):
    """All series and nodes.

    Args:
        budget: Series that one family may have; label values past it become `other`.
        objectives: What a good request is.
        bounds: Bucket bounds of histograms that have others than the catalogue's, by family name.
        trace_ratio: The share of traces that are recorded although no caller asked for it.
    """

    def __init__(
        self,
        budget: int = 10_000,
        objectives: Objectives = _OBJECTIVES,
        bounds: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
        trace_ratio: float = 0.0,
    ) -> None:
        super().__init__(budget, bounds)
        self.nodes: dict[str, Node] = {}
        self.storage = Storage()
        self.ended: deque[Ended] = deque(maxlen=ENDED_KEPT)
        """The requests that ended last, oldest first; in memory only."""
        self.web = WebCondition()
        self._objectives = objectives
        self._trace_ratio = trace_ratio

    def node(self, node_id: str) -> Node:
        """Return what is known of a node, creating the entry if needed."""
        if node_id not in self.nodes:
            self.nodes[node_id] = Node(node_id)
            self.initialise("node", (node_id,))
        return self.nodes[node_id]

    def apply(self, node: Node, session: Session, happened: Sequence[Event | None]) -> None:
        """Count events of a session as in their order; None stands for an unknown event."""
        known = [event for event in happened if event is not None]
        counts = Counter[str]()
        for group in sort_by_kind(known):
            counts[type(group[0]).__name__] += self._count(node, session, group)
        counts["invalid"] = len(known) - counts.total()
        counts["unknown"] = len(happened) - len(known)
        for name, count in counts.items():
            if count:
                self.move(EVENTS, (node.node_id, name), count)

    def _count(self, node: Node, session: Session, group: list[Any]) -> int:
        """Count events of one kind except invalid ones, and return how many were counted."""
        samples = read_samples(node.node_id, group)
        if are_sound(samples):
            self.move_all(session, samples)
            self._note(node, session, group)
            return len(group)
        return sum(self._count(node, session, [event]) for event in group if len(group) > 1)

    def _note(self, node: Node, session: Session, group: list[Any]) -> None:
        """Remember what later decisions need."""
        match event := group[-1]:
            case InferenceFinished():
                self._note_ended(node, session, group)
            case NodeStarted():
                node.api_url = event.api_url
            case NodeStateChanged():
                node.state = event.state
            case ModelDescribed():
                if event.model_id not in node.models:
                    node.models.add(event.model_id)
                    self.initialise("model", (node.node_id, event.model_id))
            case ModelUnloaded() | ModelLoadFailed():
                node.models.discard(event.model_id)
                self.forget_levels(node.node_id, event.model_id)
            case PeerForgotten():
                node.pages.pop(event.peer, None)
                self.forget_peer(node.node_id, event.peer)
            case PeerPage():
                if (node.node_id, event.peer) in self.values(PEER_STATUS):
                    node.pages[event.peer] = event.url

    def _note_ended(self, node: Node, session: Session, ended: list[InferenceFinished]) -> None:
        """Keep the newest requests, judge all, and make them the examples of their buckets."""
        self.ended.extend(Ended(node.heard_time, node.node_id, e) for e in ended[-ENDED_KEPT:])
        self.move_all(session, self._objectives.samples(node.node_id, ended))
        exemplify(self, node, ended, self._trace_ratio)
