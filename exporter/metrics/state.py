"""All series and nodes, moved by events.

Plain data that changes only by `apply` and the calls beside it, one batch at a time, so that a
copy taken between two batches is a consistent cut.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, NoneType
from typing import Any, Final, NamedTuple

from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.mesh import PEER_STATUS
from exporter.metrics.catalogue.requests import FIRST_TOKEN, LATENCY
from exporter.metrics.catalogue.telemetry import EVENTS
from exporter.metrics.conditions import Storage, WebCondition
from exporter.metrics.histogram import Exemplar
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Labels, Node, Session
from exporter.metrics.objectives import Objectives
from exporter.metrics.rules.every import RULES
from exporter.metrics.rules.rule import Observations, Sample
from exporter.metrics.series import Series
from exporter.traces.sampling import recorded_id
from shared.events.event import Event
from shared.events.mesh import PeerForgotten, PeerPage
from shared.events.models import ModelDescribed, ModelLoadFailed, ModelUnloaded
from shared.events.node import NodeStarted, NodeStateChanged
from shared.events.requests import InferenceFinished

REQUEST_ID_CHARACTERS: Final = 64
"""OpenMetrics allows 128 characters for all labels of an exemplar together, names included; a trace
id has 32."""
ENDED_KEPT: Final = 25

_OBJECTIVES: Final = Objectives()
_NOTED: Final = frozenset(
    {
        InferenceFinished,
        NodeStarted,
        NodeStateChanged,
        ModelDescribed,
        ModelUnloaded,
        ModelLoadFailed,
        PeerForgotten,
        PeerPage,
    }
)
"""Events that mean more than their samples; see `State._note`."""


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
        """Count events of a session, in order; None stands for an unknown event."""
        kinds = Counter(map(type, happened))
        invalid = 0
        for event in happened:
            if event is None:
                continue
            kind = type(event)
            samples = RULES[kind](node.node_id, event)
            if not _are_sound(samples):
                kinds[kind] -= 1
                invalid += 1
                continue
            self._move_all(session, samples)
            if kind in _NOTED:
                self._note(node, session, event)
        counts = {kind.__name__: count for kind, count in kinds.items()}
        counts["unknown"] = counts.pop(NoneType.__name__, 0)
        counts["invalid"] = invalid
        for name, count in counts.items():
            if count:
                self.move(EVENTS, (node.node_id, name), count)

    def _move_all(self, session: Session, samples: Iterable[tuple[Family, Labels, Any]]) -> None:
        """Move each sample's series.

        The exporter's hot loop: the usual sample, of a series that exists, needs one call at most.
        """
        every = self._every
        for family, labels, value in samples:
            series = every[family]
            held = series.get(labels)
            kind = family.kind
            if family.total:
                self.move_total(session, family, labels, value)
            elif held is None:
                self.move(family, labels, value)
            elif kind == "gauge":
                series[labels] = value
            elif kind == "counter":
                series[labels] = held + value
            elif type(value) is list:
                held.observe_all(value)
            else:
                held.observe(value)

    def _note(self, node: Node, session: Session, event: Event) -> None:
        """Remember what later decisions need."""
        match event:
            case InferenceFinished():
                self.ended.append(Ended(node.heard_time, node.node_id, event))
                self._move_all(session, self._objectives.samples(node.node_id, event))
                self._exemplify(node, event)
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

    def _exemplify(self, node: Node, event: InferenceFinished) -> None:
        """Keep a request as an example in its buckets."""
        if not event.request_id:
            return
        model = (node.node_id, event.model_id)
        request_id = clean_label(event.request_id)[:REQUEST_ID_CHARACTERS]
        trace_id = recorded_id(event.trace, self._trace_ratio)
        at = node.heard_time
        example = Exemplar(request_id, event.seconds, at, trace_id)
        self._remember(LATENCY, (*model, event.status), example)
        if (seconds := event.first_token_seconds) is not None:
            self._remember(FIRST_TOKEN, model, Exemplar(request_id, seconds, at, trace_id))

    def _remember(self, family: Family, labels: Labels, example: Exemplar) -> None:
        if (histogram := self.histograms(family).get(labels)) is not None:
            histogram.remember(example)


def _are_sound(samples: Iterable[Sample | Observations]) -> bool:
    """Return whether no number is negative, infinite or NaN, for which comparisons are false."""
    for _, _, value in samples:
        if isinstance(value, list):
            if not (min(value) >= 0 and sum(value) < math.inf):
                return False
        elif not 0 <= value < math.inf:
            return False
    return True
