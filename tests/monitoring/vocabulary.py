"""What queries may name: the catalogue's metrics as Prometheus shows them, and what it adds."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX, Family
from tests.monitoring.promql import Named, read
from tests.monitoring.sources import recording_rules

TARGET_LABELS: Final = frozenset({"job", "instance", "cluster", "namespace", "pod", "node"})
"""What the scrape configurations put on every series."""
PROMETHEUS_OWN: Final[Mapping[str, frozenset[str]]] = {
    "up": TARGET_LABELS,
    "scrape_duration_seconds": TARGET_LABELS,
    "probe_success": TARGET_LABELS,
    "probe_duration_seconds": TARGET_LABELS,
    "probe_http_status_code": TARGET_LABELS,
    "scrape_samples_scraped": TARGET_LABELS,
    "ALERTS": TARGET_LABELS | {"alertname", "alertstate", "severity"},
}


@dataclass(frozen=True)
class Metric:
    """A name that a query may use, with its labels and their closed sets of values."""

    labels: frozenset[str]
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@functools.cache
def metrics() -> dict[str, Metric]:
    """Give every metric by name."""
    known = {name: Metric(labels) for name, labels in PROMETHEUS_OWN.items()}
    for family in FAMILIES:
        labels = TARGET_LABELS.union(family.labels)
        for name, more in exposed_names(family):
            known[name] = Metric(labels | more, family.vocabulary)
    for name, expression in recording_rules().items():
        if name not in known:
            known[name] = Metric(frozenset())  # one may look at itself
            named = read(expression)
            known[name] = Metric(frozenset(named.kept) or labels_of(named, known))
    return known


def labels_of(named: Named, known: Mapping[str, Metric]) -> frozenset[str]:
    """Give the labels that a query's metrics have, or that it makes."""
    return frozenset(named.made).union(*(known[name].labels for name in named.metrics))


def exposed_names(family: Family) -> Iterator[tuple[str, frozenset[str]]]:
    """Give the names of a family's samples, with the labels that they have beyond the family's."""
    name = PREFIX + family.name
    if family.kind == "histogram":
        yield f"{name}_bucket", frozenset({"le"})
        yield f"{name}_sum", frozenset()
        yield f"{name}_count", frozenset()
    elif family.kind == "counter":
        yield name if name.endswith("_total") else f"{name}_total", frozenset()
    else:
        yield name, frozenset()
