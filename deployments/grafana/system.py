"""The dashboard rows about machine, network and telemetry, and about one node."""

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from deployments.grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    STATUS,
    PanelBuilder,
    number,
    one_of,
    rows,
    series,
    states,
)
from deployments.grafana.queries import JOB, NODE, RATE, grown, quantiles, rate


def machine() -> Iterator[PanelBuilder]:
    """Does the machine have enough resources?"""
    memory = "distributed_llm_system_memory_usage_bytes"
    expiry = "tls_certificate_expiry_timestamp_seconds"
    yield series(
        "File descriptors",
        "Descriptors that the node's process has open, and how many it may open.",
        (f"distributed_llm_system_file_descriptors{{{NODE}}}", "{{state}} {{node_id}}"),
    )
    yield series(
        "Certificates: days left",
        "Days until the certificates in use expire. An alert comes at 14.",
        (
            f"(distributed_llm_{expiry}{{{NODE}}} - time()) / 86400",
            "{{use}} {{node_id}}",
        ),
        (
            f"(distributed_llm_exporter_{expiry}{{{JOB}}} - time()) / 86400",
            "metrics {{instance}}",
        ),
    )
    yield series(
        "Disk of the state directory",
        "Bytes free and in total where the exporter keeps its journal.",
        (f"distributed_llm_exporter_state_disk_bytes{{{JOB}}}", "{{state}} {{instance}}"),
        unit=units.BytesIEC,
    )
    yield series(
        "CPU",
        "Percent of one core for node and engine; percent of all cores for the host.",
        (f"distributed_llm_system_cpu_usage_percent{{{NODE}}}", "{{scope}} {{node_id}}"),
        unit=units.Percent,
    )
    yield series(
        "CPU cores in use",
        "Cores in use by node and engine, and the cores that they may use.",
        (
            rate("system_cpu_seconds_total", NODE, "node_id, scope"),
            "{{scope}} {{node_id}}",
        ),
        (
            f'distributed_llm_node_resources{{{NODE}, resource_type="cpu_cores"}}',
            "cores of {{node_id}}",
        ),
    )
    yield series(
        "Memory of node and engine",
        "Resident memory of the processes.",
        (f'{memory}{{{NODE}, memory_type=~"rss|engine_rss"}}', "{{memory_type}} {{node_id}}"),
        unit=units.BytesIEC,
        stacked=True,
    )
    yield series(
        "Memory of the machine",
        "Available and total memory, and the node's limit if there is one.",
        (f'{memory}{{{NODE}, memory_type=~"available|total"}}', "{{memory_type}} {{node_id}}"),
        (
            f'distributed_llm_node_resources{{{NODE}, resource_type="memory_bytes"}}',
            "usable {{node_id}}",
        ),
        unit=units.BytesIEC,
    )
    yield series(
        "Swap in use",
        "Memory of the machine that is swapped out.",
        (f'{memory}{{{NODE}, memory_type="swap"}}', "{{node_id}}"),
        unit=units.BytesIEC,
    )
    yield series(
        "Major page faults",
        "Page faults per second that read from disk. Many for a long time: the weights do not "
        "stay in memory.",
        (
            rate("system_major_page_faults_total", NODE, "node_id, scope"),
            "{{scope}} {{node_id}}",
        ),
        unit=units.CountsPerSecond,
        warn=50,
    )
    yield series(
        "Trio tasks",
        "Live Trio tasks of the node. The number should follow the requests; if it only rises, "
        "tasks leak.",
        (f"distributed_llm_system_goroutines{{{NODE}}}", "{{node_id}}"),
    )
    yield series(
        "Event loop lag",
        "How much later than due a sleeping task is woken.",
        *quantiles("distributed_llm_runtime_event_loop_lag_seconds", NODE, "node_id", (0.5, 0.99)),
        unit=units.Seconds,
    )
    yield series(
        "Worker threads",
        "Threads of the node in use, and their maximum.",
        (f"distributed_llm_runtime_worker_threads{{{NODE}}}", "{{state}} {{node_id}}"),
    )


def network() -> Iterator[PanelBuilder]:
    """Do the nodes reach each other?"""
    yield series(
        "Message rates",
        "Messages per second between nodes, by direction and kind.",
        (
            rate("network_messages_total", NODE, "direction, message_type"),
            "{{direction}} {{message_type}}",
        ),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Latency between nodes",
        "Seconds until a peer answered, by operation.",
        *quantiles("distributed_llm_network_latency_seconds", NODE, "operation"),
        unit=units.Seconds,
    )
    yield series(
        "Latency by peer, p90",
        "90% of the answers of each peer came within this time, which shows slow connections.",
        *quantiles("distributed_llm_network_latency_seconds", NODE, "node_id, target_node", (0.9,)),
        unit=units.Seconds,
    )
    yield states(
        "Peers, as each node sees them",
        "If a peer is offline here and online in the node status above, the network between the "
        "two is cut.",
        (f"distributed_llm_peer_status{{{NODE}}}", "{{node_id}} sees {{peer}}"),
        STATUS,
        width=8,
    )
    yield series(
        "Connections",
        "Connected peers of each node, alive and suspect.",
        (f"distributed_llm_network_connections{{{NODE}}}", "{{node_id}} {{state}}"),
    )
    yield series(
        "Bytes between nodes",
        "Bytes per second, by direction.",
        (
            rate("network_bytes_total", NODE, "node_id, direction"),
            "{{node_id}} {{direction}}",
        ),
        unit=units.BytesPerSecondIEC,
    )
    yield series(
        "Refused and failed messages",
        "Refused messages and failed exchanges per second. unauthenticated: a message with a "
        "wrong mesh secret or with none.",
        (
            rate("network_errors_total", NODE, "reason"),
            "{{reason}}",
        ),
        unit=units.CountsPerSecond,
        width=8,
    )


def edge() -> Iterator[PanelBuilder]:
    """What do clients see of the two protocols?"""
    yield series(
        "HTTP responses by status",
        "Responses per second. 429: the queue is full. 499: the client left. 503: the node is "
        "stopping or has no engine.",
        (
            rate("http_requests_total", NODE, "status"),
            "{{status}}",
        ),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "HTTP responses within 1 s, by route",
        "Share of the responses that were complete within a second, streams included.",
        (_within_a_second("http_request_duration_seconds", "route"), "{{route}}"),
        unit=units.PercentUnit,
        width=6,
    )
    yield series(
        "gRPC calls by code",
        "Calls per second. resource_exhausted: the queue is full.",
        (rate("rpc_requests_total", NODE, "code"), "{{code}}"),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "gRPC calls within 1 s, by method",
        "Share of the calls that ended within a second.",
        (_within_a_second("rpc_latency_seconds", "method"), "{{method}}"),
        unit=units.PercentUnit,
        width=6,
    )


def _within_a_second(histogram: str, by: str) -> str:
    """Return the share of observations in the bucket of 1 s: three buckets make no quantile."""
    within = rate(f"{histogram}_bucket", f'{NODE}, le="1.0"', by)
    return f"{within} / {rate(f'{histogram}_count', NODE, by)}"


def health() -> Iterator[PanelBuilder]:
    """What do the exporter's own checks say?"""
    yield states(
        "Health check status",
        "Results of the exporter's checks in the last minute. The reasons are in /health.",
        (
            (
                "sum by (instance, check) (increase("
                f'distributed_llm_health_check_total{{{JOB}, status="failed"}}[1m])) > bool 0'
            ),
            "{{check}} {{instance}}",
        ),
        (("0", "ok", GREEN), ("1", "failing", RED)),
        width=12,
    )
    yield series(
        "Health checks by status",
        "Checks per second, over all exporters and checks.",
        (
            rate("health_check_total", JOB, "status"),
            "{{status}}",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "Duration of health checks, p99",
        "Seconds per check. node_api rises when the node's event loop is late.",
        *quantiles("distributed_llm_health_check_latency_seconds", JOB, "check", (0.99,)),
        unit=units.Seconds,
        width=6,
    )


def telemetry() -> Iterator[PanelBuilder]:
    """Can the metrics be trusted?"""
    dropped = "distributed_llm_telemetry_events_dropped_total"
    yield number(
        "Events lost",
        "Events that were emitted, not dropped, and never counted. Anything but 0 is a fault.",
        f"sum(distributed_llm_telemetry_events_lost{{{NODE}}})",
        (None, GREEN),
        (1, RED),
        width=4,
    )
    yield number(
        "Events dropped",
        "Events dropped in the selected time range because the node's buffer was full.",
        f"sum(increase({dropped}{{{NODE}}}[$__range]))",
        (None, GREEN),
        (1, ORANGE),
        width=4,
    )
    yield number(
        "Durable",
        "1 if every exporter can write its journal.",
        f"min(distributed_llm_exporter_durable{{{JOB}}})",
        (None, RED),
        (1, GREEN),
        width=4,
    )
    yield number(
        "Quarantined",
        "Damaged parts of journals, and records that crashed the exporter, since the journal "
        "exists.",
        f"sum(distributed_llm_exporter_quarantined_total{{{JOB}}})",
        (None, GREEN),
        (1, ORANGE),
        width=4,
    )
    yield number(
        "Longest silence",
        "The longest time since an exporter last received events from a node that is up.",
        f"max(time() - distributed_llm_exporter_last_event_timestamp_seconds{{{NODE}}}"
        f" and distributed_llm_node_up{{{NODE}}} == 1)",
        (None, GREEN),
        (5, ORANGE),
        unit=units.Seconds,
        width=4,
    )
    yield number(
        "Series",
        "Series of the metrics that can grow; each may have 10,000 per exporter.",
        f"sum(distributed_llm_exporter_series{{{JOB}}})",
        width=4,
    )
    yield series(
        "Events",
        "Events per second: emitted = counted + dropped.",
        (rate("telemetry_events_emitted_total", NODE), "emitted"),
        (rate("exporter_events_total", NODE), "counted"),
        (f"sum by (reason) (rate({dropped}{{{NODE}}}{RATE}))", "dropped {{reason}}"),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Batches",
        "Batches per second: accepted, and refused by reason. conflict: two live nodes have the "
        "same name.",
        (rate("exporter_batches_total", NODE), "taken"),
        (
            rate("exporter_rejected_batches_total", JOB, "reason"),
            "refused {{reason}}",
        ),
        (
            rate("exporter_duplicate_events_total", NODE),
            "duplicate events",
        ),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Age of events",
        "Seconds that the oldest event of the last batch had waited in the node.",
        (f"distributed_llm_exporter_event_lag_seconds{{{NODE}}}", "{{node_id}}"),
        unit=units.Seconds,
    )
    yield series(
        "Duration of rendering",
        "Seconds that the exporter takes to render a scrape.",
        *quantiles(
            "distributed_llm_exporter_scrape_duration_seconds", JOB, "instance", (0.5, 0.99)
        ),
        unit=units.Seconds,
    )
    yield series(
        "Journal",
        "Size of each exporter's current log, which is replaced at 8 MiB.",
        (f"distributed_llm_exporter_journal_bytes{{{JOB}}}", "{{instance}}"),
        unit=units.BytesIEC,
    )
    yield series(
        "Events recovered",
        "Events that exporters recovered from their journals at the start, over the last 5 "
        "minutes.",
        (
            grown("exporter_recovered_events_total", JOB, "instance"),
            "{{instance}}",
        ),
    )
    yield series(
        "Internal errors",
        "Parts of node or exporter that failed unexpectedly and were restarted, and failures of an "
        "operator's collectors, over the last 5 minutes; 1 for a web configuration that cannot be "
        "used. Anything but 0 is a fault.",
        (grown("node_internal_errors_total", NODE, "node_id, part"), "{{node_id}} {{part}}"),
        (
            grown("exporter_internal_errors_total", JOB, "instance, part"),
            "exporter {{instance}} {{part}}",
        ),
        (
            grown("exporter_collector_errors_total", JOB, "instance, collector"),
            "exporter {{instance}} collector {{collector}}",
        ),
        (
            f"1 - distributed_llm_exporter_web_config_valid{{{JOB}}}",
            "exporter {{instance}} web configuration",
        ),
    )
    yield series(
        "Label values folded into `other`",
        "Samples per second that were counted under `other` because the metric has no room for "
        "new labels.",
        (
            rate("exporter_series_folded_total", JOB, "metric, label"),
            "{{metric}} {{label}}",
        ),
        unit=units.CountsPerSecond,
    )
    yield rows(
        "Largest metrics",
        "The ten metrics with the most series, for each exporter.",
        f"topk(10, distributed_llm_exporter_series{{{JOB}}})",
        ("pod", "namespace"),
        width=8,
    )
    yield rows(
        "Exporters",
        "Versions of each exporter and of its Python.",
        f"distributed_llm_exporter_build_info{{{JOB}}}",
        ("Value", "pod", "namespace"),
        width=8,
    )
    yield series(
        "Request log and traces",
        "Lines per second that exporters wrote to their request logs, spans that they sent, and "
        "what they left out.",
        (rate("exporter_request_log_lines_total", JOB), "lines"),
        (rate("exporter_request_log_dropped_total", JOB, "reason"), "lines {{reason}}"),
        (rate("exporter_spans_total", JOB), "spans"),
        (rate("exporter_spans_dropped_total", JOB, "reason"), "spans {{reason}}"),
        unit=units.CountsPerSecond,
        width=8,
    )


def one_node() -> Iterator[PanelBuilder]:
    """What does one node do? Repeated for each selected node."""
    this = f'{JOB}, node_id="$node"'
    yield one_of(
        "Status",
        "The node's reported status over time; offline if it is gone, too.",
        (f'distributed_llm_node_state{{{this}, state!="unknown"}}', "{{state}}"),
        width=6,
    )
    yield series(
        "Uptime",
        "Seconds since the start of the node.",
        (f"distributed_llm_node_uptime_seconds{{{this}}}", "{{node_id}}"),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "Requests by status",
        "Ended requests per second of this node.",
        (
            rate("inference_requests_total", this, "status"),
            "{{status}}",
        ),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield rows(
        "Versions",
        "Versions of the node, of Python and of the engine.",
        f"distributed_llm_node_info{{{this}}}",
        ("Value", "instance", "pod", "namespace"),
        width=6,
    )
    yield series(
        "First token",
        "Seconds to the first token on this node.",
        *quantiles(
            "distributed_llm_inference_time_to_first_token_seconds", this, "model_id", (0.5, 0.9)
        ),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "Tokens generated",
        "Tokens per second of this node.",
        (
            rate("inference_tokens_generated_total", this, "model_id"),
            "{{model_id}}",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "CPU",
        "Percent of one core for node and engine; percent of all cores for the host.",
        (f"distributed_llm_system_cpu_usage_percent{{{this}}}", "{{scope}}"),
        unit=units.Percent,
        width=6,
    )
    yield series(
        "Memory",
        "Resident memory of node and engine, and the machine's available memory.",
        (
            (
                f"distributed_llm_system_memory_usage_bytes{{{this}, "
                'memory_type=~"rss|engine_rss|available"}'
            ),
            "{{memory_type}}",
        ),
        unit=units.BytesIEC,
        width=6,
    )
