"""Keeps every family's series: creates them within a budget, moves and removes them."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Final

from exporter.metrics.catalogue.exporter import FOLDED
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import OTHER, Family, Scope
from exporter.metrics.catalogue.mesh import NETWORK_LATENCY, PEER_STATUS
from exporter.metrics.catalogue.models import LAYERS_UNSERVED
from exporter.metrics.histogram import Histogram
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Labels, Session

Value = float | list[float]
_OF_THE_MESH: Final = frozenset({LAYERS_UNSERVED})
"""Levels of a model that stay when it is unloaded: it remains true that layers do not fit anywhere
while loads fail for that reason."""


class Series:
    """All series by family.

    Args:
        budget: Series that one family may have; label values past it become `other`.
        bounds: Bucket bounds of histograms that have others than the catalogue's, by family name.
    """

    def __init__(self, budget: int, bounds: Mapping[str, tuple[float, ...]]) -> None:
        self._budget = budget
        self._bounds = bounds
        self._numbers: dict[Family, dict[Labels, float]] = {}
        self._histograms: dict[Family, dict[Labels, Histogram]] = {}
        for family in FAMILIES:
            if family.kind == "histogram":
                self._histograms[family] = {}
            else:
                self._numbers[family] = {}
        self._every: dict[Family, dict[Labels, Any]] = {**self._numbers, **self._histograms}
        self.initialise("exporter", ())

    def move(self, family: Family, labels: Labels, value: Value) -> None:
        """Add to a counter, set a gauge, or observe.

        Args:
            family: What moves.
            labels: Its label values.
            value: A number, or several in their order: a gauge takes on the last.
        """
        values = value if isinstance(value, list) else [value]
        if not values:
            return
        series = self._every[family]
        if labels not in series:
            labels = self._admit(family, labels, len(values))
        if family.kind == "histogram":
            if labels not in series:
                series[labels] = self.new_histogram(family)
            series[labels].observe(values)
        elif family.kind == "counter":
            series[labels] = series.get(labels, 0) + sum(values)
        else:
            series[labels] = values[-1]

    def move_all(self, session: Session, samples: Iterable[tuple[Family, Labels, Value]]) -> None:
        """Move what events of a session mean."""
        for family, labels, value in samples:
            if family.total:
                self.move_total(session, family, labels, value)
            else:
                self.move(family, labels, value)

    def move_total(self, session: Session, family: Family, labels: Labels, value: Value) -> None:
        """Raise a counter to a session's running total, the highest of several."""
        total = max(value) if isinstance(value, list) else value
        key = (family.name, labels)
        grown = total - session.totals.get(key, 0)
        if grown > 0:
            session.totals[key] = total
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
            self.initialise("node", (node_id,))
            self.initialise("model", (node_id, model_id))

    def values(self, family: Family) -> Mapping[Labels, float]:
        """Return the numbers of a family, read-only."""
        return self._numbers[family]

    def histograms(self, family: Family) -> Mapping[Labels, Histogram]:
        """Return the histograms of a family, read-only."""
        return self._histograms[family]

    def series_count(self, family: Family) -> int:
        """Return how many label sets a family has."""
        return len(self._every[family])

    def initialise(self, scope: Scope, owner: Labels) -> None:
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

    def _admit(self, family: Family, labels: Labels, samples: int = 1) -> Labels:
        """Return the labels under which a new series is kept: cleaned, and within the budget.

        The exporter's own families have no budget: their labels are its own words.

        Args:
            family: The family of the series.
            labels: The label values, as they came.
            samples: How many numbers go into it now.
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
                self.move(FOLDED, (family.name, name), samples)
        return folded
