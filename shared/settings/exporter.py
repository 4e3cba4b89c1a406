"""The exporter's settings, declared here because the agent has them as well."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from shared.settings.base import Settings
from shared.settings.declaration import Topic, setting
from shared.settings.kinds import (
    COLLECTORS,
    COUNT,
    FILE,
    FILE_OR_STDOUT,
    PORT,
    POSITIVE,
    SHARE,
    URL,
    Bounds,
    Buckets,
    Group,
    Number,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsSettings(Settings):
    """The exporter's settings; `exporter.settings` checks them against the metrics."""

    table: ClassVar[str] = "exporter"

    metrics_port: int = setting(
        Topic.METRICS, 9090, PORT, "Port of /metrics and /health; 0 picks a free one."
    )
    metrics_token_file: Path | None = setting(
        Topic.METRICS,
        None,
        FILE,
        "Bearer tokens, one per line; require one for /metrics and /health.",
    )
    web_config_file: Path | None = setting(
        Topic.METRICS,
        None,
        FILE,
        "TLS and passwords of this port, in the format of Prometheus's exporter-toolkit.",
    )
    collectors: tuple[str, ...] = setting(
        Topic.METRICS, (), COLLECTORS, "Collectors of prometheus_client to expose as well."
    )
    socket_group: int | None = setting(
        Topic.METRICS,
        None,
        Group(),
        "Group whose members may also send events to the telemetry socket.",
    )
    request_log: Path | None = setting(
        Topic.METRICS,
        None,
        FILE_OR_STDOUT,
        "Write a line of JSON for each ended request to this file, or to standard output.",
    )
    request_log_mib: int = setting(
        Topic.METRICS, 64, COUNT, "Limit of the request log, its older files included, in MiB."
    )
    otlp_endpoint: str = setting(
        Topic.METRICS,
        "",
        URL,
        "Send a trace of each request to the OpenTelemetry collector at this URL, over OTLP/HTTP.",
    )
    trace_ratio: float = setting(
        Topic.METRICS,
        1.0,
        SHARE,
        "Share of the traces to record whose caller does not say whether to.",
    )
    series_budget: int = setting(
        Topic.METRICS, 10_000, COUNT, "Series per metric; the rest are folded into 'other'."
    )
    node_timeout_seconds: float = setting(
        Topic.METRICS, 2.5, Number(min=1.5), "Silence after which a node counts as down."
    )
    engine_silence_seconds: float = setting(
        Topic.METRICS,
        30.0,
        POSITIVE,
        "Time without progress after which a working engine counts as stalled.",
    )
    buckets: Bounds = setting(
        Topic.METRICS, dict, Buckets(), "Bucket bounds that replace a histogram's own."
    )
    slo_first_token_seconds: float = setting(
        Topic.METRICS, 2.5, POSITIVE, "Objective: longest time to the first token."
    )
    slo_per_token_seconds: float = setting(
        Topic.METRICS, 0.2, POSITIVE, "Objective: longest mean time per later token."
    )
    slo_latency_seconds: float = setting(
        Topic.METRICS, 30.0, POSITIVE, "Objective: longest duration of a request."
    )
