"""The exporter itself: its disk, its scrapes, its request log, its traces."""

from typing import Final, Literal, get_args

from exporter.metrics.catalogue.family import CHECK_BUCKETS, counter, gauge, histogram

ExporterPart = Literal[
    "feed",
    "health",
    "ingest",
    "journal",
    "listener",
    "reaper",
    "request_log",
    "silence",
    "disk",
    "socket_path",
    "status",
    "terminal",
    "tokens",
    "traces",
    "watchdog",
    "web_config",
]
"""The long-lived parts of the exporter, each under its guard."""
PARTS: Final = get_args(ExporterPart)

DURABLE: Final = gauge(
    "exporter_durable",
    "1 while a restart of the exporter loses nothing, 0 while the journal cannot be written.",
    derived=True,
)
JOURNAL_BYTES: Final = gauge(
    "exporter_journal_bytes", "Bytes of the journal's current log.", derived=True
)
STATE_DISK: Final = gauge(
    "exporter_state_disk_bytes",
    "Bytes on the disk of the state directory: free for this process, and in total.",
    "state",
    derived=True,
    state=("free", "total"),
)
RECOVERED_EVENTS: Final = counter(
    "exporter_recovered_events_total", "Events read back from the journal at a start."
)
QUARANTINED: Final = counter(
    "exporter_quarantined_total",
    "Damaged or dangerous parts of the journal that were moved to quarantine, by kind.",
    "kind",
    kind=("tail", "log", "snapshot", "poison"),
)
SERIES: Final = gauge(
    "exporter_series", "Series in memory, for each metric that can grow.", "metric", derived=True
)
FOLDED: Final = counter(
    "exporter_series_folded_total",
    "Samples whose label value was replaced by `other`, by metric and label.",
    "metric",
    "label",
)
SCRAPE_DURATION: Final = histogram(
    "exporter_scrape_duration_seconds", CHECK_BUCKETS, "Duration of rendering a scrape in seconds."
)
COLLECTOR_ERRORS: Final = counter(
    "exporter_collector_errors_total",
    "Scrapes without the metrics of another collector, which raised or took too long.",
    "collector",
)
EXPORTER_INTERNAL_ERRORS: Final = counter(
    "exporter_internal_errors_total",
    "Unexpected errors in a part of the exporter that continued to run.",
    "part",
    part=PARTS,
)
LOG_LINES: Final = counter("exporter_request_log_lines_total", "Lines written to the request log.")
LOG_DROPPED: Final = counter(
    "exporter_request_log_dropped_total",
    "Lines missing from the request log: the queue was full, or the write failed.",
    "reason",
    reason=("queue_full", "failed"),
)
SPANS: Final = counter("exporter_spans_total", "Spans that the collector accepted.")
SPANS_DROPPED: Final = counter(
    "exporter_spans_dropped_total",
    "Spans dropped: the queue was full, or the collector did not accept them.",
    "reason",
    reason=("queue_full", "failed"),
)
WEB_CONFIG_VALID: Final = gauge(
    "exporter_web_config_valid",
    "1 while the current `--web-config-file` is in use, 0 while an earlier version of it is.",
    derived=True,
)
OWN_CERTIFICATE_EXPIRY: Final = gauge(
    "exporter_tls_certificate_expiry_timestamp_seconds",
    "Unix time at which the certificate of `--web-config-file` expires, in seconds.",
    derived=True,
)
BUILD_INFO: Final = gauge(
    "exporter_build_info",
    "Versions of the exporter, as labels; always 1.",
    "version",
    "python",
    derived=True,
)
