"""The rows of the dashboard about what the service stands on, and about one node."""

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from deployments.grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    STATUS,
    PanelBuilder,
    number,
    rows,
    series,
    states,
)
from deployments.grafana.queries import JOB, NODE, RATE, grown, quantiles, rate


def machine() -> Iterator[PanelBuilder]:
    """Has the machine enough of everything?"""
    memory = "distributed_llm_system_memory_usage_bytes"
    yield series(
        "CPU",
        "Percent of one core for node and engine; of all cores for the host.",
        (f"distributed_llm_system_cpu_usage_percent{{{NODE}}}", "{{scope}} {{node_id}}"),
        unit=units.Percent,
    )
    yield series(
        "CPU cores at work",
        "CPU seconds a second of node and engine, against the cores that they may use.",
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
        "Resident bytes of the processes.",
        (f'{memory}{{{NODE}, memory_type=~"rss|engine_rss"}}', "{{memory_type}} {{node_id}}"),
        unit=units.BytesIEC,
        stacked=True,
    )
    yield series(
        "Memory of the machine",
        "Available and all; what the node may use at the most where a limit is set.",
        (f'{memory}{{{NODE}, memory_type=~"available|total"}}', "{{memory_type}} {{node_id}}"),
        (
            f'distributed_llm_node_resources{{{NODE}, resource_type="memory_bytes"}}',
            "usable {{node_id}}",
        ),
        unit=units.BytesIEC,
    )
    yield series(
        "Swapped out",
        "Bytes of the machine's memory that are in swap.",
        (f'{memory}{{{NODE}, memory_type="swap"}}', "{{node_id}}"),
        unit=units.BytesIEC,
    )
    yield series(
        "Page faults that read from disk",
        "A second. Many for long: the weights do not stay in memory.",
        (
            rate("system_major_page_faults_total", NODE, "node_id, scope"),
            "{{scope}} {{node_id}}",
        ),
        unit=units.CountsPerSecond,
        warn=50,
    )
    yield series(
        "Trio tasks",
        "Living tasks of the node, Python's counterpart of goroutines. It should follow the "
        "requests; a line that only climbs is a leak.",
        (f"distributed_llm_system_goroutines{{{NODE}}}", "{{node_id}}"),
    )
    yield series(
        "Lateness of the node's event loop",
        "How much later than asked a sleeping task is woken.",
        *quantiles("distributed_llm_runtime_event_loop_lag_seconds", NODE, "node_id", (0.5, 0.99)),
        unit=units.Seconds,
    )
    yield series(
        "Worker threads",
        "Threads of the node in use, and how many there can be.",
        (f"distributed_llm_runtime_worker_threads{{{NODE}}}", "{{state}} {{node_id}}"),
    )


def network() -> Iterator[PanelBuilder]:
    """Do the nodes reach each other?"""
    yield series(
        "Message rates",
        "Messages between nodes a second, by direction and kind.",
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
        "Nine of ten answers of each peer came within this time: it shows which way is slow.",
        *quantiles("distributed_llm_network_latency_seconds", NODE, "node_id, target_node", (0.9,)),
        unit=units.Seconds,
    )
    yield states(
        "Peers, as each node sees them",
        "Offline here and online in the node status above: the network between the two is cut.",
        (f"distributed_llm_peer_status{{{NODE}}}", "{{node_id}} sees {{peer}}"),
        STATUS,
        width=8,
    )
    yield series(
        "Connections",
        "Peers that each node is connected to, alive and suspect.",
        (f"distributed_llm_network_connections{{{NODE}}}", "{{node_id}} {{state}}"),
    )
    yield series(
        "Bytes between nodes",
        "A second, by direction.",
        (
            rate("network_bytes_total", NODE, "node_id, direction"),
            "{{node_id}} {{direction}}",
        ),
        unit=units.BytesPerSecondIEC,
    )
    yield series(
        "Refused and failed",
        "Messages refused and exchanges failed a second. unauthenticated: a wrong cluster secret, "
        "or somebody who has none.",
        (
            rate("network_errors_total", NODE, "reason"),
            "{{reason}}",
        ),
        unit=units.CountsPerSecond,
        width=24,
    )


def edge() -> Iterator[PanelBuilder]:
    """What do clients see of the two protocols?"""
    yield series(
        "HTTP responses by status",
        "A second. 429: the queue is full. 499: the client left. 503: stopping, or no engine.",
        (
            rate("http_requests_total", NODE, "status"),
            "{{status}}",
        ),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "HTTP duration by route, p90",
        "Seconds from the request to the end of its response, streams included; only as fine as "
        "the buckets of 0.1, 1 and 10 s.",
        *quantiles("distributed_llm_http_request_duration_seconds", NODE, "route", (0.9,)),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "gRPC calls by code",
        "A second. resource_exhausted: the queue is full.",
        (rate("rpc_requests_total", NODE, "code"), "{{code}}"),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "gRPC duration by method, p90",
        "Seconds that calls took; only as fine as the buckets of 0.1, 1 and 10 s.",
        *quantiles("distributed_llm_rpc_latency_seconds", NODE, "method", (0.9,)),
        unit=units.Seconds,
        width=6,
    )


def health() -> Iterator[PanelBuilder]:
    """What do the exporter's own checks say?"""
    yield states(
        "Health check status",
        "What the exporter's checks of the last minute found. The reason is in /health.",
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
        "Checks a second, over all exporters and checks.",
        (
            rate("health_check_total", JOB, "status"),
            "{{status}}",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "Duration of health checks, p99",
        "Seconds. node_api grows when the node's event loop is late.",
        *quantiles("distributed_llm_health_check_latency_seconds", JOB, "check", (0.99,)),
        unit=units.Seconds,
        width=6,
    )


def telemetry() -> Iterator[PanelBuilder]:
    """Can the numbers be believed?"""
    dropped = "distributed_llm_telemetry_events_dropped_total"
    yield number(
        "Events lost",
        "Emitted, not dropped and never counted. Anything but 0 is a fault.",
        f"sum(distributed_llm_telemetry_events_lost{{{NODE}}})",
        (None, GREEN),
        (1, RED),
        width=4,
    )
    yield number(
        "Events dropped",
        "In the time shown, for want of room in the node.",
        f"sum(increase({dropped}{{{NODE}}}[$__range]))",
        (None, GREEN),
        (1, ORANGE),
        width=4,
    )
    yield number(
        "Durable",
        "1 where every exporter can write its journal.",
        f"min(distributed_llm_exporter_durable{{{JOB}}})",
        (None, RED),
        (1, GREEN),
        width=4,
    )
    yield number(
        "Kept aside",
        "Damaged or dangerous pieces of journals, ever.",
        f"sum(distributed_llm_exporter_quarantined_total{{{JOB}}})",
        (None, GREEN),
        (1, ORANGE),
        width=4,
    )
    yield number(
        "Silent for",
        "The longest time since a node that is up was last heard.",
        f"max(time() - distributed_llm_exporter_last_event_timestamp_seconds{{{NODE}}}"
        f" and distributed_llm_node_up{{{NODE}}} == 1)",
        (None, GREEN),
        (5, ORANGE),
        unit=units.Seconds,
        width=4,
    )
    yield number(
        "Series",
        "Series of the metrics that can grow; each of these may have 10,000 at an exporter.",
        f"sum(distributed_llm_exporter_series{{{JOB}}})",
        width=4,
    )
    yield series(
        "Events",
        "Events a second: emitted = counted + dropped.",
        (rate("telemetry_events_emitted_total", NODE), "emitted"),
        (rate("exporter_events_total", NODE), "counted"),
        (f"sum by (reason) (rate({dropped}{{{NODE}}}{RATE}))", "dropped {{reason}}"),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Batches",
        "Batches a second: taken, and refused by reason. conflict: two live nodes with one name.",
        (rate("exporter_batches_total", NODE), "taken"),
        (
            rate("exporter_rejected_batches_total", JOB, "reason"),
            "refused {{reason}}",
        ),
        (
            rate("exporter_duplicate_events_total", NODE),
            "events that came twice",
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
        "Rendering a scrape",
        "Seconds in the exporter.",
        *quantiles(
            "distributed_llm_exporter_scrape_duration_seconds", JOB, "instance", (0.5, 0.99)
        ),
        unit=units.Seconds,
    )
    yield series(
        "Journal",
        "Bytes of each exporter's current log; it is replaced at 8 MiB.",
        (f"distributed_llm_exporter_journal_bytes{{{JOB}}}", "{{instance}}"),
        unit=units.BytesIEC,
    )
    yield series(
        "Read back at a start",
        "Events that exporters read from their journals, over the last 5 minutes.",
        (
            grown("exporter_recovered_events_total", JOB, "instance"),
            "{{instance}}",
        ),
    )
    yield series(
        "Internal errors",
        "Times that a part of node or exporter failed unexpectedly and was restarted, over the "
        "last 5 minutes. Anything but 0 is a fault.",
        (grown("node_internal_errors_total", NODE, "node_id, part"), "{{node_id}} {{part}}"),
        (
            grown("exporter_internal_errors_total", JOB, "instance, part"),
            "exporter {{instance}} {{part}}",
        ),
    )
    yield series(
        "Label values folded into `other`",
        "Samples a second whose metric had no room for another label value.",
        (
            rate("exporter_series_folded_total", JOB, "metric, label"),
            "{{metric}} {{label}}",
        ),
        unit=units.CountsPerSecond,
    )
    yield rows(
        "Largest metrics",
        "The ten metrics with the most series, of one exporter each.",
        f"topk(10, distributed_llm_exporter_series{{{JOB}}})",
        ("pod", "namespace"),
        width=8,
    )
    yield rows(
        "Exporters",
        "Versions of each exporter and its Python.",
        f"distributed_llm_exporter_build_info{{{JOB}}}",
        ("Value", "pod", "namespace"),
        width=8,
    )


def one_node() -> Iterator[PanelBuilder]:
    """What does one node do? Repeated for each that is chosen."""
    this = f'{JOB}, node_id="$node"'
    yield states(
        "Status",
        "The state that the node says it is in, over time; offline also when it is gone.",
        (f'distributed_llm_node_state{{{this}, state!="unknown"}}', "{{state}}"),
        (("0", "", "transparent"), ("1", "yes", GREEN)),
        width=6,
    )
    yield series(
        "Uptime",
        "Seconds since the node's start.",
        (f"distributed_llm_node_uptime_seconds{{{this}}}", "{{node_id}}"),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "Requests by status",
        "Requests of this node that ended, a second.",
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
        "Tokens a second of this node.",
        (
            rate("inference_tokens_generated_total", this, "model_id"),
            "{{model_id}}",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "CPU",
        "Percent of one core for node and engine; of all cores for the host.",
        (f"distributed_llm_system_cpu_usage_percent{{{this}}}", "{{scope}}"),
        unit=units.Percent,
        width=6,
    )
    yield series(
        "Memory",
        "Resident bytes of node and engine, and what the machine has available.",
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
