"""Keeps the newest request of each bucket as its example."""

from collections.abc import Iterable, Sequence
from typing import Final

from exporter.metrics.catalogue.requests import FIRST_TOKEN, LATENCY
from exporter.metrics.grouping import split_by
from exporter.metrics.histogram import Exemplar, Histogram
from exporter.metrics.labels import clean_label
from exporter.metrics.nodes import Node
from exporter.metrics.series import Series
from exporter.traces.sampling import recorded_id
from shared.events.requests import InferenceFinished

REQUEST_ID_CHARACTERS: Final = 64
"""OpenMetrics allows 128 characters for all labels of an exemplar together, names included; a trace
id has 32."""

_Timed = tuple[float, InferenceFinished]


def exemplify(
    series: Series, node: Node, ended: Sequence[InferenceFinished], trace_ratio: float
) -> None:
    """Keep requests as the examples of their buckets, where the series exist.

    Args:
        series: What the requests were counted in.
        node: Their node.
        ended: The requests, oldest first; those without an id are no examples.
        trace_ratio: The share of traces that are recorded although no caller asked for it.
    """
    named = [e for e in ended if e.request_id]
    latencies, first_tokens = series.histograms(LATENCY), series.histograms(FIRST_TOKEN)
    for (model_id, status), group in split_by(named, "model_id", "status"):
        if (histogram := latencies.get((node.node_id, model_id, status))) is not None:
            _remember(histogram, [(e.seconds, e) for e in group], node.heard_time, trace_ratio)
    for model_id, group in split_by(named, "model_id"):
        if (histogram := first_tokens.get((node.node_id, model_id))) is not None:
            timed = [(e.first_token_seconds, e) for e in group if e.first_token_seconds is not None]
            _remember(histogram, timed, node.heard_time, trace_ratio)


def _remember(histogram: Histogram, timed: Iterable[_Timed], at: float, ratio: float) -> None:
    newest = {histogram.bucket(seconds): (seconds, e) for seconds, e in timed}
    for bucket, (seconds, e) in newest.items():
        request_id = clean_label(e.request_id)[:REQUEST_ID_CHARACTERS]
        trace_id = recorded_id(e.trace, ratio)
        histogram.exemplars[bucket] = Exemplar(request_id, seconds, at, trace_id)
