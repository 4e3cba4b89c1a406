"""The series of every family, moved by events.

Plain data that changes only by `apply` and the calls beside it, one batch at a time, so that a
copy taken between two batches is a consistent cut.
"""

import itertools
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, NoneType
from typing import Any, Final, NamedTuple

from exporter.metrics.catalogue.exporter import FOLDED
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import OTHER, Family, Scope
from exporter.metrics.catalogue.mesh import NETWORK_LATENCY, PEER_STATUS
from exporter.metrics.catalogue.models import LAYERS_UNSERVED
from exporter.metrics.catalogue.requests import FIRST_TOKEN, LATENCY
from exporter.metrics.catalogue.telemetry import EVENTS
from exporter.metrics.conditions import Storage, WebCondition
from exporter.metrics.histogram import Exemplar, Histogram
from exporter.metrics.nodes import Labels, Node, Session
from exporter.metrics.objectives import Objectives
from exporter.metrics.rules.every import RULES
from exporter.metrics.rules.rule import Observations, Sample
from exporter.traces.sampling import recorded_id
from shared.events.event import Event
from shared.events.mesh import PeerForgotten, PeerPage
from shared.events.models import ModelDescribed, ModelLoadFailed, ModelUnloaded
from shared.events.node import NodeStarted, NodeStateChanged
from shared.events.requests import InferenceFinished

LABEL_CHARACTERS: Final = 128
REQUEST_ID_CHARACTERS: Final = 64
"""OpenMetrics allows 128 characters for all labels of an exemplar together, names included; a trace
id has 32."""
ENDED_KEPT: Final = 25
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_OBJECTIVES: Final = Objectives()
_OF_THE_MESH: Final = frozenset({LAYERS_UNSERVED})
"""Levels of a model that stay when it is unloaded: it remains true that layers do not fit anywhere
while loads fail for that reason."""
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


class State:
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
        self.nodes: dict[str, Node] = {}
        self.storage = Storage()
        self.ended: deque[Ended] = deque(maxlen=ENDED_KEPT)
        """The requests that ended last, oldest first; in memory only."""
        self.web = WebCondition()
        self._budget = budget
        self._objectives = objectives
        self._bounds = bounds
        self._trace_ratio = trace_ratio
        self._numbers: dict[Family, dict[Labels, float]] = {}
        self._histograms: dict[Family, dict[Labels, Histogram]] = {}
        for family in FAMILIES:
            if family.kind == "histogram":
                self._histograms[family] = {}
            else:
                self._numbers[family] = {}
        self._every: dict[Family, dict[Labels, Any]] = {**self._numbers, **self._histograms}
        self._initialise("exporter", ())

    def node(self, node_id: str) -> Node:
        """Return what is known of a node, creating the entry if needed."""
        if node_id not in self.nodes:
            self.nodes[node_id] = Node(node_id)
            self._initialise("node", (node_id,))
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

    def move(self, family: Family, labels: Labels, value: Any) -> None:
        """Add to a counter, set a gauge, or observe a number or a list of them."""
        series = self._every[family]
        if labels not in series:
            labels = self._admit(family, labels)
        if family.kind == "histogram":
            if labels not in series:
                series[labels] = self.new_histogram(family)
            histogram = series[labels]
            (histogram.observe_all if isinstance(value, list) else histogram.observe)(value)
        elif family.kind == "counter":
            series[labels] = series.get(labels, 0) + value
        else:
            series[labels] = value

    def move_total(self, session: Session, family: Family, labels: Labels, value: float) -> None:
        """Raise a counter to a session's running total."""
        key = (family.name, labels)
        grown = value - session.totals.get(key, 0)
        if grown > 0:
            session.totals[key] = value
            self.move(family, labels, grown)

    def forget_levels(self, node_id: str, model_id: str | None = None) -> None:
        """Remove the gauges of a node, or of one of its models."""
        names = (node_id,) if model_id is None else (node_id, model_id)
        owner = tuple(map(clean_label, names))
        for family, numbers in self._numbers.items():
            if family.kind == "gauge" and family.scope != "exporter":
                if model_id is not None and (family.scope != "model" or family in _OF_THE_MESH):
                    continue
                for labels in [ls for ls in numbers if ls[: len(owner)] == owner]:
                    del numbers[labels]

    def forget_peer(self, node_id: str, peer: str | None = None) -> None:
        """Remove every series, counters included, that a node has about a peer, or about all peers.

        A node that ended forgets all peers: its next run may meet others, and no event would remove
        the series of those that have left. Counters restart at 0, which `rate()` handles like any
        restart.
        """
        names = (node_id,) if peer is None else (node_id, peer)
        owner = tuple(map(clean_label, names))
        for family in (PEER_STATUS, NETWORK_LATENCY):
            series = self._every[family]
            for labels in [ls for ls in series if ls[: len(owner)] == owner]:
                del series[labels]

    def copy_series(
        self,
    ) -> tuple[dict[Family, dict[Labels, float]], dict[Family, dict[Labels, Histogram]]]:
        """Return a copy of the numbers and histograms of every family."""
        histograms = {
            family: {labels: histogram.copy() for labels, histogram in series.items()}
            for family, series in self._histograms.items()
        }
        return {family: dict(series) for family, series in self._numbers.items()}, histograms

    def new_histogram(self, family: Family) -> Histogram:
        """Return an empty histogram of a family, with the buckets in use."""
        return Histogram(self._bounds.get(family.name, family.buckets))

    def merge(self, family: Family, labels: Labels, other: Histogram) -> None:
        """Add a histogram of the same buckets."""
        series = self._histograms[family]
        if labels not in series:
            labels = self._admit(family, labels)
        mine = series.setdefault(labels, self.new_histogram(family))
        mine.counts = [a + b for a, b in zip(mine.counts, other.counts, strict=True)]
        mine.sum += other.sum

    def start_at_zero(self, known: Iterable[Labels]) -> None:
        """Create the series of families new in this version for known nodes and models.

        Args:
            known: Label values that begin with a node and its model.
        """
        for node_id, model_id in {labels[:2] for labels in known}:
            self._initialise("node", (node_id,))
            self._initialise("model", (node_id, model_id))

    def values(self, family: Family) -> Mapping[Labels, float]:
        """Return the numbers of a family, read-only."""
        return self._numbers[family]

    def histograms(self, family: Family) -> Mapping[Labels, Histogram]:
        """Return the histograms of a family, read-only."""
        return self._histograms[family]

    def series_count(self, family: Family) -> int:
        """Return how many label sets a family has."""
        return len(self._every[family])

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
                    self._initialise("model", (node.node_id, event.model_id))
            case ModelUnloaded() | ModelLoadFailed():
                node.models.discard(event.model_id)
                self.forget_levels(node.node_id, event.model_id)
            case PeerForgotten():
                node.pages.pop(event.peer, None)
                self.forget_peer(node.node_id, event.peer)
            case PeerPage():
                if (node.node_id, event.peer) in self._numbers[PEER_STATUS]:
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
        if (histogram := self._histograms[family].get(labels)) is not None:
            histogram.remember(example)

    def _initialise(self, scope: Scope, owner: Labels) -> None:
        """Start closed vocabularies at 0, so that rate() works from the first scrape."""
        for family in FAMILIES:
            if family.scope != scope or family.kind == "gauge" or family.open_labels:
                continue
            values = [family.vocabulary[label] for label in family.labels[len(owner) :]]
            for rest in itertools.product(*values):
                labels = self._admit(family, (*owner, *rest))
                if family.kind == "histogram":
                    self._histograms[family].setdefault(labels, self.new_histogram(family))
                else:
                    self._numbers[family].setdefault(labels, 0)

    def _admit(self, family: Family, labels: Labels) -> Labels:
        """Return the labels under which a new series is kept: cleaned, and within the budget.

        The exporter's own families have no budget: their labels are its own words.
        """
        cleaned = tuple(map(clean_label, labels))
        series = self._every[family]
        if family.scope == "exporter" or cleaned in series or len(series) < self._budget:
            return cleaned
        # The node's name stays: nodes come from the operator, not from traffic.
        folded = tuple(
            value if name == "node_id" or name in family.vocabulary else OTHER
            for name, value in zip(family.labels, cleaned, strict=True)
        )
        for name, before, after in zip(family.labels, cleaned, folded, strict=True):
            if before != after:
                self.move(FOLDED, (family.name, name), 1)
        return folded


def _are_sound(samples: Iterable[Sample | Observations]) -> bool:
    """Return whether no number is negative, infinite or NaN, for which comparisons are false."""
    for _, _, value in samples:
        if isinstance(value, list):
            if not (min(value) >= 0 and sum(value) < math.inf):
                return False
        elif not 0 <= value < math.inf:
            return False
    return True


def clean_label(value: str, most_characters: int = LABEL_CHARACTERS) -> str:
    """Make a label value presentable: printable and of bounded length."""
    if value.isprintable() and len(value) <= most_characters:  # the usual case, and faster
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value[:most_characters])
