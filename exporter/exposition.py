"""Renders a cut of the state for Prometheus; the only module that imports prometheus_client.

A registry and a collector live for one scrape: the collector shows one cut, so that concurrent
scrapes share nothing and each is consistent in itself.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest, samples
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from exporter.catalogue import PREFIX, Family
from exporter.cut import Cut
from exporter.histogram import Exemplar, Histogram
from exporter.nodes import Labels

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""Whatever version was asked for: the library labels a 1.0 body as 2.0 to who asks for that."""


@dataclass(frozen=True)
class Wanted:
    """What a scrape asked for."""

    openmetrics: bool = False
    compressed: bool = False
    names: Sequence[str] = ()
    """Sample names to show; none for all."""


@dataclass(frozen=True)
class Rendered:
    """The answer to a scrape."""

    content_type: str
    body: bytes


def render(cut: Cut, wanted: Wanted) -> Rendered:
    """Write a cut. Takes about 10 microseconds a line: run it in a worker thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_CutCollector(cut))
    shown = registry.restricted_registry(wanted.names) if wanted.names else registry
    if wanted.openmetrics:
        content_type = _OPENMETRICS
        body: bytes = generate_openmetrics(shown)  # type: ignore[no-untyped-call]
    else:
        content_type, body = CONTENT_TYPE_PLAIN_0_0_4, generate_latest(shown)
    return Rendered(content_type, gzip.compress(body, 1) if wanted.compressed else body)


class _CutCollector(Collector):
    def __init__(self, cut: Cut) -> None:
        self._cut = cut

    def describe(self) -> Iterable[Metric]:
        """Give the families without series: the registry learns their names from this."""
        for family in (*self._cut.numbers, *self._cut.histograms):
            yield _numbers(family, {}) if family.kind != "histogram" else _histograms(family, {})

    def collect(self) -> Iterator[Metric]:
        """Give every family that has series."""
        for family, numbers in self._cut.numbers.items():
            if numbers:
                yield _numbers(family, numbers)
        for family, histograms in self._cut.histograms.items():
            if histograms:
                yield _histograms(family, histograms)


def _numbers(family: Family, series: dict[Labels, float]) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(PREFIX + family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        metric.add_metric(labels, value)
    return metric


def _histograms(family: Family, series: dict[Labels, Histogram]) -> Metric:
    metric = HistogramMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
    for labels, histogram in series.items():
        metric.add_metric(labels, _buckets(histogram), histogram.sum)
    return metric


def _buckets(
    histogram: Histogram,
) -> list[tuple[str, float] | tuple[str, float, samples.Exemplar]]:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    buckets: list[tuple[str, float] | tuple[str, float, samples.Exemplar]] = [
        *zip(bounds, accumulate(histogram.counts), strict=True)
    ]
    for index, one in histogram.exemplars.items():
        buckets[index] = (*buckets[index][:2], _exemplar(one))
    return buckets


def _exemplar(one: Exemplar) -> samples.Exemplar:
    return samples.Exemplar({"request_id": one.request_id}, one.value, one.at)
