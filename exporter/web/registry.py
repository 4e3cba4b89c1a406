"""The registry: the state as a collector, and beside it those of the library and of operators."""

import itertools
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from exporter.errors import StartupError
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.catalogue.family import PREFIX, Family
from exporter.metrics.cut import Cut, take_cut
from exporter.metrics.histogram import Exemplar as Example
from exporter.metrics.histogram import Histogram
from exporter.metrics.nodes import Labels
from exporter.metrics.state import State

_FAMILY: Final = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}
_LIBRARY: Final = (ProcessCollector, PlatformCollector, GCCollector)


class CollectorNameError(StartupError):
    """A collector cannot be loaded; the text names it and the cause."""


class StateCollector(Collector):
    """Every family of the catalogue, from a consistent cut of the state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def describe(self) -> Iterator[Metric]:
        """Yield the families without samples, so that no other collector can take their names."""
        return (_new_family(family) for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """Yield the families with their samples. Call it from the thread that changes the state.

        A scrape does not come this way: `exporter.web.exposition` writes the same bytes ten times
        as fast.
        """
        return families_of(take_cut(self._state))


def families_of(cut: Cut) -> Iterator[Metric]:
    """Yield the families of a cut as the library's objects."""
    for family, numbers in cut.numbers.items():
        metric = _new_family(family)
        for labels, value in numbers.items():
            metric.add_metric(labels, value)
        yield metric
    for family, histograms in cut.histograms.items():
        metric = _new_family(family)
        for labels, histogram in histograms.items():
            _add_histogram(metric, labels, histogram)
        yield metric


class Registry(CollectorRegistry):
    """A registry of prometheus_client that already has the state and the library's collectors.

    Args:
        state: What nodes reported.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.others: dict[str, Collector] = {}
        """The collectors besides the state, by the name in the error metric, in order."""
        super().register(StateCollector(state))
        for library in _LIBRARY:
            library(registry=self)

    def register(self, collector: Collector) -> None:
        """Add a collector under the name of its class.

        Raises:
            ValueError: It describes a name that is taken.
        """
        self.register_as(type(collector).__name__, collector)

    def register_as(self, name: str, collector: Collector) -> None:
        """Add a collector under a name of its own.

        Raises:
            ValueError: It describes a name that is taken.
        """
        super().register(collector)
        self.others[name] = collector


def open_registry(state: State, names: Sequence[str]) -> Registry:
    """Return a registry with the collectors of operators.

    Args:
        state: What nodes reported.
        names: `module:name` of a collector, or of what returns one without arguments.

    Raises:
        CollectorNameError: One of them cannot be loaded.
    """
    registry = Registry(state)
    for name in names:
        try:
            registry.register_as(name, _load(name))
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise CollectorNameError(f"--collectors: {name} cannot be loaded: {reason}") from error
    return registry


def _load(name: str) -> Collector:
    found = pkgutil.resolve_name(name)
    collector = found if hasattr(found, "collect") and not isinstance(found, type) else found()
    if not callable(getattr(collector, "collect", None)):
        raise TypeError("it has no method collect()")
    return collector  # type: ignore[no-any-return]


def _new_family(family: Family) -> Any:
    return _FAMILY[family.kind](PREFIX + family.name, family.help, labels=family.labels)


def _add_histogram(metric: HistogramMetricFamily, labels: Labels, histogram: Histogram) -> None:
    examples = {
        at: Exemplar(_labels_of(one), one.value, one.at) for at, one in histogram.exemplars.items()
    }
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    reached = itertools.accumulate(histogram.counts)
    buckets = [
        (bound, count, examples[at]) if at in examples else (bound, count)
        for at, (bound, count) in enumerate(zip(bounds, reached, strict=True))
    ]
    metric.add_metric(labels, buckets, histogram.sum)


def _labels_of(example: Example) -> dict[str, str]:
    labels = {"request_id": example.request_id}
    return labels | {"trace_id": example.trace_id} if example.trace_id else labels
