"""Writes the dashboard: `python -m deployments.grafana.dashboard > dashboard.json`.

The rows are in the order of what one asks at night: what is wrong, whom does it hurt, where is it
stuck, and only then what the machine, the mesh and the telemetry do. What is below the first screen
is folded, and loads when it is opened.
"""

import json
import sys
from collections.abc import Iterator
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

from deployments.addresses import DASHBOARD_UID, Addresses, read_addresses
from deployments.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SOURCE,
    YELLOW,
    PanelBuilder,
    heat,
    number,
    rows,
    series,
    states,
)

PREFIX: Final = "distributed_llm_"
JOB: Final = 'job=~"$job"'
NODE: Final = f'{JOB}, node_id=~"$node"'
MODEL: Final = f'{NODE}, model_id=~"$model"'
SERVICE: Final = f'{JOB}, model_id=~"$model"'
RATE: Final = "[$__rate_interval]"

STATUS: Final = (
    ("0", "offline", RED),
    ("1", "online", GREEN),
    ("2", "busy", BLUE),
    ("3", "unknown", GREY),
)
ALLOWED: Final = 0.01
"""The share of bad requests that the objective of 99 % allows, as the alerts have it."""


def write_dashboard(addresses: Addresses) -> str:
    """Give the dashboard as Grafana's JSON."""
    board = (
        builders.Dashboard("Distributed LLM")
        .uid(DASHBOARD_UID)
        .description(
            "Nodes that serve language models, in the order of what one asks at night. "
            "A gap or 'no data' means that nothing is known; 0 means none."
        )
        .tags(["distributed-llm"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .editable()
    )
    for title, page in (
        ("Runbooks", f"{addresses.repository}/docs/runbooks"),
        ("Monitoring", f"{addresses.repository}/docs/monitoring.md"),
        ("Metrics", f"{addresses.repository}/docs/metrics.md"),
    ):
        board.link(
            builders.DashboardLink(title)
            .type(models.DashboardLinkType.LINK)
            .url(page)
            .icon("doc")
            .target_blank(True)
        )
    for variable in _variables():
        board.with_variable(variable)
    for annotation in _annotations():
        board.annotation(annotation)
    for panel in _now(addresses):
        board.with_panel(panel)
    for title, panels in (
        ("Users: latency, first token, tokens", _users()),
        ("Objectives and their budget", _objectives()),
        ("Queue, slots and stalls", _queue()),
        ("Models and layers", _models()),
        ("Machine: CPU, memory, tasks", _machine()),
        ("Network between nodes", _network()),
        ("HTTP and gRPC", _edge()),
        ("Health checks", _health()),
        ("The telemetry itself", _telemetry()),
    ):
        board.with_row(_row(title, panels))
    board.with_row(_row("Node $node", _one_node()).repeat("node"))
    built = board.build()
    _number_panels(built)
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _row(title: str, panels: Iterator[PanelBuilder]) -> builders.Row:
    row = builders.Row(title).collapsed(True)
    for panel in panels:
        row.with_panel(panel)
    return row


def _number_panels(board: models.Dashboard) -> None:
    """Give each panel an id, which its link needs."""
    at = 0
    for panel in board.panels or []:
        inner = panel.panels if isinstance(panel, models.RowPanel) else []
        for each in (panel, *inner):
            at += 1
            each.id_val = at


def _variables() -> Iterator[builders.DatasourceVariable | builders.QueryVariable]:
    yield builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    for name, label, query in (
        ("job", "Job", "label_values(distributed_llm_exporter_build_info, job)"),
        ("node", "Node", f"label_values(distributed_llm_node_up{{{JOB}}}, node_id)"),
        (
            "model",
            "Model",
            f"label_values(distributed_llm_inference_requests_total{{{NODE}}}, model_id)",
        ),
    ):
        yield (
            builders.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query(query)
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )


def _annotations() -> Iterator[builders.AnnotationQuery]:
    for name, color, query in (
        (
            "Node started",
            "blue",
            (
                f"changes(distributed_llm_node_start_time_seconds{{{NODE}}}{RATE}) > 0"
                f" or distributed_llm_node_uptime_seconds{{{NODE}}} < 15"
            ),
        ),
        (
            "Node lost",
            RED,
            f'increase(distributed_llm_node_ends_total{{{NODE}, reason="lost"}}{RATE}) > 0',
        ),
        (
            "Node stopped",
            GREY,
            f'increase(distributed_llm_node_ends_total{{{NODE}, reason="goodbye"}}{RATE}) > 0',
        ),
        (
            "Model loaded",
            GREEN,
            f'increase(distributed_llm_model_loads_total{{{MODEL}, result="ok"}}{RATE}) > 0',
        ),
        (
            "Engine replaced",
            ORANGE,
            f"increase(distributed_llm_engine_restarts_total{{{MODEL}}}{RATE}) > 0",
        ),
    ):
        yield (
            builders.AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .enable(True)
            .icon_color(color)
            .expr(query)
        )


def _rate(metric: str, labels: str, by: str = "") -> str:
    """Give the query of a counter's growth a second."""
    return f"sum{_by(by)} (rate({PREFIX}{metric}{{{labels}}}{RATE}))"


def _grown(metric: str, labels: str, by: str) -> str:
    """Give the query of a counter's growth over five minutes, for what happens seldom."""
    return f"sum{_by(by)} (increase({PREFIX}{metric}{{{labels}}}[5m]))"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _quantiles(
    metric: str, labels: str, by: str, shares: tuple[float, ...] = (0.5, 0.9, 0.99)
) -> list[tuple[str, str]]:
    """Give the queries of a histogram's quantiles, each with its legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [
        (
            (
                f"histogram_quantile({share:g}, sum by ({by}, le) "
                f"(rate({metric}_bucket{{{labels}}}{RATE})))"
            ),
            f"p{share * 100:g} {legend}",
        )
        for share in shares
    ]


def _now(addresses: Addresses) -> Iterator[PanelBuilder]:
    requests = "distributed_llm_inference_requests_total"
    yield number(
        "Exporters answering",
        "Exporters that answered the last scrape. One less than there are machines: of one machine "
        "nothing is known. See the runbook of ExporterDown.",
        f"sum(up{{{JOB}}})",
        (None, RED),
        (1, GREEN),
    )
    yield number(
        "Nodes up",
        "Nodes that their exporters hear.",
        f"sum(distributed_llm_node_up{{{NODE}}})",
        (None, RED),
        (1, GREEN),
    )
    yield number(
        "Nodes away",
        "Nodes that were heard once and are not now, stopped ones included.",
        f"count(distributed_llm_node_up{{{NODE}}}) - sum(distributed_llm_node_up{{{NODE}}})",
        (None, GREEN),
        (1, ORANGE),
    )
    yield number(
        "Failing",
        "Share of requests that ended with an error or a timeout in the last 5 minutes; without "
        "requests there is no share.",
        f'sum(rate({requests}{{{MODEL}, status=~"error|timeout"}}[5m]))'
        f' / sum(rate({requests}{{{MODEL}, status=~"ok|error|timeout"}}[5m]))',
        (None, GREEN),
        (ALLOWED, YELLOW),
        (0.1, RED),
        unit=units.PercentUnit,
        decimals=1,
    )
    yield number(
        "First token, p90",
        "Nine of ten requests of the last 5 minutes had their first token within this time.",
        "histogram_quantile(0.9, sum by (le) (rate("
        f"distributed_llm_inference_time_to_first_token_seconds_bucket{{{MODEL}}}[5m])))",
        (None, GREEN),
        (2.5, YELLOW),
        (10, RED),
        unit=units.Seconds,
        decimals=2,
    )
    yield number(
        "Waiting",
        "Requests that wait for an engine now.",
        f"sum(distributed_llm_inference_queue_depth{{{MODEL}}})",
        (None, GREEN),
        (8, YELLOW),
        (32, RED),
    )
    yield number(
        "Tokens/s",
        "Tokens generated a second over the last minute.",
        f"sum(rate(distributed_llm_inference_tokens_generated_total{{{MODEL}}}[1m]))",
        decimals=1,
    )
    yield number(
        "Longest silence",
        "The longest time that an engine with work has made no progress. Past 30 s it has stalled; "
        "see the runbook of EngineStalled.",
        f"max(distributed_llm_engine_silent_seconds{{{MODEL}}})",
        (None, GREEN),
        (10, YELLOW),
        (30, RED),
        unit=units.Seconds,
    )
    yield states(
        "Node status",
        "Each node over time. A gap means that its exporter did not answer; offline is also what a "
        "node is that was stopped.",
        (f"distributed_llm_node_status{{{NODE}}}", "{{node_id}}"),
        STATUS,
        width=8,
    )
    yield rows(
        "Alerts firing",
        "What fires now; a click opens the runbook. Empty is well, as long as exporters answer.",
        f'ALERTS{{alertstate="firing", {JOB}}}',
        ("Value", "alertstate", "instance", "pod", "namespace"),
        width=8,
        link=("Runbook", f"{addresses.repository}/docs/runbooks/${{__data.fields.alertname}}.md"),
    ).no_value("nothing fires")
    yield series(
        "Requests by status",
        "Requests that ended, a second. Cancelled: the client left. Rejected: no room in the "
        "queue, or a request that was wrong.",
        (f"sum by (status) (rate({requests}{{{MODEL}}}{RATE}))", "{{status}}"),
        unit=units.RequestsPerSecond,
        stacked=True,
    )
    yield series(
        "Time to first token",
        "Seconds from admission to the first token, waiting included. The dashed line is the "
        "usual objective.",
        *_quantiles("distributed_llm_inference_time_to_first_token_seconds", MODEL, "model_id"),
        unit=units.Seconds,
        warn=2.5,
        height=6,
    )
    yield series(
        "Latency of good answers",
        "Seconds from admission to the last token, of requests that ended well.",
        *_quantiles(
            "distributed_llm_inference_latency_seconds", f'{MODEL}, status="ok"', "model_id"
        ),
        unit=units.Seconds,
        warn=60,
        height=6,
    )
    yield series(
        "Waiting and in flight",
        "Requests that wait, and all that were admitted and have not ended.",
        (
            f"sum by (model_id) (distributed_llm_inference_queue_depth{{{MODEL}}})",
            "waiting {{model_id}}",
        ),
        (
            f"sum by (model_id) (distributed_llm_inference_requests_in_flight{{{MODEL}}})",
            "in flight {{model_id}}",
        ),
        height=6,
    )


def _users() -> Iterator[PanelBuilder]:
    first = "distributed_llm_inference_time_to_first_token_seconds"
    token = "distributed_llm_inference_time_per_output_token_seconds"  # noqa: S105 - no password
    yield series(
        "Time per later token",
        "Seconds per token after the first. 0.2 s is about the speed of reading.",
        *_quantiles(token, MODEL, "model_id"),
        unit=units.Seconds,
        warn=0.2,
    )
    yield series(
        "Tokens generated",
        "Tokens a second, counted as they are made.",
        (
            _rate("inference_tokens_generated_total", MODEL, "model_id"),
            "{{model_id}}",
        ),
        unit=units.CountsPerSecond,
        stacked=True,
    )
    yield series(
        "Requests by model and node",
        "Good answers a second: who does the work.",
        (
            _rate("inference_requests_total", f'{MODEL}, status="ok"', "model_id, node_id"),
            "{{model_id}} on {{node_id}}",
        ),
        unit=units.RequestsPerSecond,
        stacked=True,
    )
    yield heat(
        "First token, all requests",
        "How many requests had their first token after how long.",
        f"sum by (le) (increase({first}_bucket{{{MODEL}}}{RATE}))",
    )
    yield heat(
        "Per later token, all requests",
        "How many requests had how many seconds per token.",
        f"sum by (le) (increase({token}_bucket{{{MODEL}}}{RATE}))",
    )
    yield series(
        "Prompt tokens",
        "Prompt tokens a second, and those of them that the engine still held.",
        (_rate("inference_prompt_tokens_total", MODEL), "all"),
        (
            _rate("inference_prompt_tokens_cached_total", MODEL),
            "cached",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "Tokens thrown away",
        "Tokens a second that were made and that nobody got.",
        (
            _rate("inference_tokens_discarded_total", MODEL, "reason"),
            "{{reason}}",
        ),
        unit=units.CountsPerSecond,
        stacked=True,
        width=6,
    )
    yield series(
        "How answers end",
        "Finish reasons a second: stop by the model, length by a limit.",
        (
            _rate("inference_finish_total", MODEL, "reason"),
            "{{reason}}",
        ),
        unit=units.RequestsPerSecond,
        stacked=True,
        width=6,
    )
    yield series(
        "Size of prompts and answers",
        "Median and 90th percentile of the tokens of a request.",
        *[
            (query, f"{what} {legend}")
            for what in ("prompt", "output")
            for query, legend in _quantiles(
                f"distributed_llm_inference_request_{what}_tokens", MODEL, "model_id", (0.5, 0.9)
            )
        ],
        width=6,
    )


def _objectives() -> Iterator[PanelBuilder]:
    judged = "distributed_llm_inference_slo_requests_total"
    for what, title in (
        ("availability_errors", "Availability"),
        ("first_token_errors", "First token"),
    ):
        yield series(
            f"{title}: burn rate",
            "How many times faster than allowed the budget is spent; at 1 it lasts for the month. "
            "14.4 over an hour pages.",
            *[
                (
                    f"model:{what}:ratio_rate{window}{{{SERVICE}}} / {ALLOWED}",
                    f"{window} {{{{model_id}}}}",
                )
                for window in ("5m", "1h", "6h", "3d")
            ],
            width=8,
            warn=14.4,
        )
    yield series(
        "Bad requests by objective",
        "Share of judged requests that missed each objective (--slo-… of the exporter).",
        (
            (
                f'sum by (slo) (rate({judged}{{{MODEL}, result="bad"}}{RATE}))'
                f" / sum by (slo) (rate({judged}{{{MODEL}}}{RATE}))"
            ),
            "{{slo}}",
        ),
        unit=units.PercentUnit,
        warn=ALLOWED,
    )
    for slo, title in (
        ("all", "Budget left, all objectives"),
        ("first_token", "Budget left, first token"),
    ):
        yield number(
            title,
            "What is left of the bad requests that 99 % allows, over the time shown. Below 0 it is "
            "overspent.",
            f'1 - (sum(increase({judged}{{{MODEL}, slo="{slo}", result="bad"}}[$__range]))'
            f' / sum(increase({judged}{{{MODEL}, slo="{slo}"}}[$__range]))) / {ALLOWED}',
            (None, RED),
            (0, ORANGE),
            (0.5, GREEN),
            unit=units.PercentUnit,
            width=6,
        )


def _queue() -> Iterator[PanelBuilder]:
    yield series(
        "Slots",
        "Requests that engines work on, and how many they can.",
        (f"sum by (state) (distributed_llm_inference_slots{{{MODEL}}})", "{{state}}"),
        width=6,
    )
    yield series(
        "Engine silence",
        "Seconds that an engine with work has made no progress. It grows during each piece of a "
        "prompt; past 30 s it is a stall.",
        (f"distributed_llm_engine_silent_seconds{{{MODEL}}}", "{{model_id}} on {{node_id}}"),
        unit=units.Seconds,
        warn=30,
        width=6,
    )
    for what, title, text in (
        ("queue", "Time in the queue", "Seconds that requests waited for the engine."),
        ("prefill", "Prefill", "Seconds from the engine's start on a prompt to the first token."),
        ("decode", "Decode", "Seconds from the first token to the last."),
    ):
        yield series(
            title,
            text,
            *_quantiles(f"distributed_llm_inference_{what}_seconds", MODEL, "model_id", (0.5, 0.9)),
            unit=units.Seconds,
            width=6,
        )
    yield series(
        "Engines replaced",
        "Engine children that crashed or hung and were started anew, over the last 5 minutes.",
        (
            _grown("engine_restarts_total", MODEL, "model_id, reason"),
            "{{model_id}} {{reason}}",
        ),
        width=6,
    )
    yield series(
        "Requests that went on in a new engine",
        "Requests that lost their engine and were resumed, over the last 5 minutes.",
        (
            _grown("inference_resumed_total", MODEL, "model_id, reason"),
            "{{model_id}} {{reason}}",
        ),
        width=6,
    )
    yield series(
        "Since the last progress",
        "Seconds since each engine's last piece of a prompt or token. It grows while there is no "
        "work, which is no fault.",
        (
            f"time() - distributed_llm_engine_last_progress_timestamp_seconds{{{MODEL}}}",
            "{{model_id}} on {{node_id}}",
        ),
        unit=units.Seconds,
        width=6,
    )


def _models() -> Iterator[PanelBuilder]:
    yield rows(
        "Models in memory",
        "Each model on each node.",
        f"distributed_llm_model_info{{{MODEL}}}",
        ("Value", "instance", "pod", "namespace"),
        width=12,
    )
    yield series(
        "Models loaded",
        "Models in memory, by node.",
        (f"distributed_llm_models_loaded{{{NODE}}}", "{{node_id}}"),
        width=6,
    )
    yield series(
        "Size of models",
        "Bytes of the weights in memory.",
        (f"distributed_llm_model_size_bytes{{{MODEL}}}", "{{model_id}} on {{node_id}}"),
        unit=units.BytesIEC,
        width=6,
        stacked=True,
    )
    yield series(
        "Layers by model and node",
        "Layers of each model that are on each node.",
        (f"distributed_llm_layers_allocated{{{MODEL}}}", "{{model_id}} on {{node_id}}"),
        stacked=True,
    )
    yield series(
        "Layers: used and possible",
        "Layers in use on each node, and how many its memory could hold.",
        (
            f'distributed_llm_node_resources{{{NODE}, resource_type="used_layers"}}',
            "used {{node_id}}",
        ),
        (
            f'distributed_llm_node_resources{{{NODE}, resource_type="max_layers"}}',
            "possible {{node_id}}",
        ),
    )
    yield series(
        "Layers without a node",
        "Layers that no living node has memory for. More than 0: the model is not served.",
        (f"max by (model_id) (distributed_llm_layers_unserved{{{MODEL}}})", "{{model_id}}"),
    )
    yield series(
        "Loads and unloads",
        "Over the last 5 minutes, by result and reason.",
        (
            _grown("model_loads_total", MODEL, "model_id, result"),
            "load {{model_id}} {{result}}",
        ),
        (
            _grown("model_unloads_total", MODEL, "model_id, reason"),
            "unload {{model_id}} {{reason}}",
        ),
    )
    yield series(
        "Duration of loads",
        "Median and 90th percentile of the loads of the last hour.",
        *[
            (
                (
                    f"histogram_quantile({share}, sum by (model_id, le) "
                    f"(increase(distributed_llm_model_load_duration_seconds_bucket{{{MODEL}}}[1h])))"
                ),
                f"p{share * 100:g} {{{{model_id}}}}",
            )
            for share in (0.5, 0.9)
        ],
        unit=units.Seconds,
    )
    yield series(
        "Progress of loads",
        "How much of a model is downloaded, or read into memory.",
        (
            f"distributed_llm_model_load_progress_ratio{{{MODEL}}}",
            "{{model_id}} {{stage}} on {{node_id}}",
        ),
        unit=units.PercentUnit,
    )


def _machine() -> Iterator[PanelBuilder]:
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
            _rate("system_cpu_seconds_total", NODE, "node_id, scope"),
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
            _rate("system_major_page_faults_total", NODE, "node_id, scope"),
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
        *_quantiles("distributed_llm_runtime_event_loop_lag_seconds", NODE, "node_id", (0.5, 0.99)),
        unit=units.Seconds,
    )
    yield series(
        "Worker threads",
        "Threads of the node in use, and how many there can be.",
        (f"distributed_llm_runtime_worker_threads{{{NODE}}}", "{{state}} {{node_id}}"),
    )


def _network() -> Iterator[PanelBuilder]:
    yield series(
        "Message rates",
        "Messages between nodes a second, by direction and kind.",
        (
            _rate("network_messages_total", NODE, "direction, message_type"),
            "{{direction}} {{message_type}}",
        ),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Latency between nodes",
        "Seconds until a peer answered, by operation.",
        *_quantiles("distributed_llm_network_latency_seconds", NODE, "operation"),
        unit=units.Seconds,
    )
    yield series(
        "Latency by peer, p90",
        "Nine of ten answers of each peer came within this time: it shows which way is slow.",
        *_quantiles(
            "distributed_llm_network_latency_seconds", NODE, "node_id, target_node", (0.9,)
        ),
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
            _rate("network_bytes_total", NODE, "node_id, direction"),
            "{{node_id}} {{direction}}",
        ),
        unit=units.BytesPerSecondIEC,
    )
    yield series(
        "Refused and failed",
        "Messages refused and exchanges failed a second. unauthenticated: a wrong cluster secret, "
        "or somebody who has none.",
        (
            _rate("network_errors_total", NODE, "reason"),
            "{{reason}}",
        ),
        unit=units.CountsPerSecond,
        width=24,
    )


def _edge() -> Iterator[PanelBuilder]:
    yield series(
        "HTTP responses by status",
        "A second. 429: the queue is full. 499: the client left. 503: stopping, or no engine.",
        (
            _rate("http_requests_total", NODE, "status"),
            "{{status}}",
        ),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "HTTP duration by route, p90",
        "Seconds from the request to the end of its response, streams included.",
        *_quantiles("distributed_llm_http_request_duration_seconds", NODE, "route", (0.9,)),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "gRPC calls by code",
        "A second. resource_exhausted: the queue is full.",
        (_rate("rpc_requests_total", NODE, "code"), "{{code}}"),
        unit=units.RequestsPerSecond,
        width=6,
        stacked=True,
    )
    yield series(
        "gRPC duration by method, p90",
        "Seconds that calls took.",
        *_quantiles("distributed_llm_rpc_latency_seconds", NODE, "method", (0.9,)),
        unit=units.Seconds,
        width=6,
    )


def _health() -> Iterator[PanelBuilder]:
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
            _rate("health_check_total", JOB, "status"),
            "{{status}}",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "Duration of health checks, p99",
        "Seconds. node_api grows when the node's event loop is late.",
        *_quantiles("distributed_llm_health_check_latency_seconds", JOB, "check", (0.99,)),
        unit=units.Seconds,
        width=6,
    )


def _telemetry() -> Iterator[PanelBuilder]:
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
        "Series that the exporters hold; each metric may have 10,000.",
        f"sum(distributed_llm_exporter_series{{{JOB}}})",
        width=4,
    )
    yield series(
        "Events",
        "Events a second: emitted = counted + dropped.",
        (_rate("telemetry_events_emitted_total", NODE), "emitted"),
        (_rate("exporter_events_total", NODE), "counted"),
        (f"sum by (reason) (rate({dropped}{{{NODE}}}{RATE}))", "dropped {{reason}}"),
        unit=units.CountsPerSecond,
    )
    yield series(
        "Batches",
        "Batches a second: taken, and refused by reason. conflict: two live nodes with one name.",
        (_rate("exporter_batches_total", NODE), "taken"),
        (
            _rate("exporter_rejected_batches_total", JOB, "reason"),
            "refused {{reason}}",
        ),
        (
            _rate("exporter_duplicate_events_total", NODE),
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
        *_quantiles(
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
            _grown("exporter_recovered_events_total", JOB, "instance"),
            "{{instance}}",
        ),
    )
    yield series(
        "Label values folded into `other`",
        "Samples a second whose metric had no room for another label value.",
        (
            _rate("exporter_series_folded_total", JOB, "metric, label"),
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


def _one_node() -> Iterator[PanelBuilder]:
    this = f'{JOB}, node_id="$node"'
    yield states(
        "Status",
        "This node over time, with the state that it says it is in.",
        (f'distributed_llm_node_state{{{this}, state!="unknown"}} == 1', "{{state}}"),
        (("1", "yes", GREEN),),
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
            _rate("inference_requests_total", this, "status"),
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
        *_quantiles(
            "distributed_llm_inference_time_to_first_token_seconds", this, "model_id", (0.5, 0.9)
        ),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "Tokens generated",
        "Tokens a second of this node.",
        (
            _rate("inference_tokens_generated_total", this, "model_id"),
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


if __name__ == "__main__":
    sys.stdout.write(write_dashboard(read_addresses()))
