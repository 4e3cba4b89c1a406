"""Events on their way from the nodes to their counts."""

from typing import Final

from exporter.metrics.catalogue.family import NODE, counter, gauge

REJECTIONS: Final = ("malformed", "protocol", "conflict", "internal")
DROPS: Final = ("buffer_full", "backlog_full", "oversize", "unencodable", "rejected")

EVENTS: Final = counter(
    "exporter_events_total", "Events applied, by kind of event.", *NODE, "event"
)
EMITTED: Final = counter(
    "telemetry_events_emitted_total",
    "Events that the node emitted, including dropped ones.",
    *NODE,
    total=True,
)
DROPPED: Final = counter(
    "telemetry_events_dropped_total",
    "Events that the node dropped, by reason.",
    *NODE,
    "reason",
    total=True,
    reason=DROPS,
)
LOST: Final = gauge(
    "telemetry_events_lost",
    "Events that were emitted but neither dropped nor applied.",
    *NODE,
    derived=True,
)
BATCHES: Final = counter("exporter_batches_total", "Batches accepted.", *NODE)
DUPLICATES: Final = counter(
    "exporter_duplicate_events_total", "Events that arrived again and were skipped.", *NODE
)
REJECTED: Final = counter(
    "exporter_rejected_batches_total",
    "Batches that were rejected, by reason.",
    "reason",
    reason=REJECTIONS,
)
LAST_EVENT: Final = gauge(
    "exporter_last_event_timestamp_seconds",
    "Unix time of the node's last batch, in seconds.",
    *NODE,
    derived=True,
)
EVENT_LAG: Final = gauge(
    "exporter_event_lag_seconds",
    "Age of the oldest event when the node built its last batch, in seconds.",
    *NODE,
    derived=True,
)
