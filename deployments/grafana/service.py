"""The dashboard rows about the service: what users notice, and where it is stuck."""

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from deployments.addresses import Addresses
from deployments.grafana.panels import (
    GREEN,
    ORANGE,
    RED,
    STATUS,
    YELLOW,
    PanelBuilder,
    heat,
    number,
    rows,
    series,
    states,
)
from deployments.grafana.queries import (
    ALLOWED,
    JOB,
    MODEL,
    NODE,
    RATE,
    SERVICE,
    grown,
    quantiles,
    rate,
)


def now(addresses: Addresses) -> Iterator[PanelBuilder]:
    """Is anything wrong now? The first screen, which is not collapsed."""
    requests = "distributed_llm_inference_requests_total"
    runbooks = f"{addresses.repository}/docs/runbooks/${{__data.fields.alertname}}.md"
    yield number(
        "Exporters up",
        "Share of the exporters that answered the last scrape. Below 100% the state of a machine "
        "is unknown: see the runbook of ExporterDown.",
        f"sum(up{{{JOB}}}) / count(up{{{JOB}}})",
        (None, RED),
        (0.5, ORANGE),
        (1, GREEN),
        unit=units.PercentUnit,
    )
    yield number(
        "Nodes up",
        "Share of the nodes that their exporters receive events from, without those that said "
        "goodbye.",
        f"sum(distributed_llm_node_up{{{NODE}}}) / count("
        f"distributed_llm_node_up{{{NODE}}} == 1 or distributed_llm_node_departed{{{NODE}}} == 0)",
        (None, RED),
        (0.5, ORANGE),
        (1, GREEN),
        unit=units.PercentUnit,
    )
    yield number(
        "Nodes lost",
        "Nodes that disappeared without a goodbye.",
        f"sum(1 - distributed_llm_node_up{{{NODE}}} - distributed_llm_node_departed{{{NODE}}})",
        (None, GREEN),
        (1, ORANGE),
    )
    yield number(
        "Failed requests",
        "Share of requests in the last 5 minutes that ended with an error or a timeout; empty "
        "without requests.",
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
        "90% of the requests in the last 5 minutes had their first token within this time.",
        "histogram_quantile(0.9, sum by (le) (rate("
        f"distributed_llm_inference_time_to_first_token_seconds_bucket{{{MODEL}}}[5m])))",
        (None, GREEN),
        (2.5, YELLOW),
        (10, RED),
        unit=units.Seconds,
        decimals=2,
    )
    yield number(
        "Queued",
        "Requests that wait for an engine now.",
        f"sum(distributed_llm_inference_queue_depth{{{MODEL}}})",
        (None, GREEN),
        (8, YELLOW),
        (32, RED),
    )
    yield number(
        "Tokens/s",
        "Tokens generated per second over the last minute.",
        f"sum(rate(distributed_llm_inference_tokens_generated_total{{{MODEL}}}[1m]))",
        decimals=1,
    )
    yield number(
        "Longest stall",
        "The longest time that an engine with work has made no progress. Above 30 s it has "
        "stalled: see the runbook of EngineStalled.",
        f"max(distributed_llm_engine_silent_seconds{{{MODEL}}})",
        (None, GREEN),
        (10, YELLOW),
        (30, RED),
        unit=units.Seconds,
    )
    yield states(
        "Node status",
        "Status of each node over time. A gap means that its exporter did not answer. A node that "
        "was stopped is offline, too.",
        (f"distributed_llm_node_status{{{NODE}}}", "{{node_id}}"),
        STATUS,
        width=8,
    )
    yield rows(
        "Alerts firing",
        "Alerts that fire now; docs/runbooks has a page for each. Empty is good only if the "
        "exporters answer.",
        f'ALERTS{{alertstate="firing", alertname!="Watchdog", {JOB}}}',
        ("Value", "alertstate", "instance", "pod", "namespace"),
        width=8,
        link=("Runbook", runbooks) if addresses.repository else None,
    ).no_value("nothing fires")
    yield series(
        "Requests by status",
        "Ended requests per second. cancelled: the client left. rejected: the queue was full, or "
        "the request was invalid.",
        (f"sum by (status) (rate({requests}{{{MODEL}}}{RATE}))", "{{status}}"),
        unit=units.RequestsPerSecond,
        stacked=True,
    )
    yield series(
        "Time to first token",
        "Seconds from admission to the first token, including the time in the queue. The dashed "
        "line is the default objective.",
        *quantiles("distributed_llm_inference_time_to_first_token_seconds", MODEL, "model_id"),
        unit=units.Seconds,
        warn=2.5,
        height=6,
        exemplars=True,
    )
    yield series(
        "Latency of good answers",
        "Seconds from admission to the last token, for successful requests.",
        *quantiles(
            "distributed_llm_inference_latency_seconds", f'{MODEL}, status="ok"', "model_id"
        ),
        unit=units.Seconds,
        warn=60,
        height=6,
        exemplars=True,
    )
    yield series(
        "Queued and in flight",
        "Requests in the queue, and all admitted requests that have not ended.",
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


def users() -> Iterator[PanelBuilder]:
    """What do users notice, and what do they request?"""
    first = "distributed_llm_inference_time_to_first_token_seconds"
    token = "distributed_llm_inference_time_per_output_token_seconds"  # noqa: S105 - not a password
    yield series(
        "Time per token after the first",
        "Seconds per token after the first. 0.2 s is about reading speed.",
        *quantiles(token, MODEL, "model_id"),
        unit=units.Seconds,
        warn=0.2,
    )
    yield series(
        "Tokens generated",
        "Tokens generated per second, counted as they are drawn.",
        (
            rate("inference_tokens_generated_total", MODEL, "model_id"),
            "{{model_id}}",
        ),
        unit=units.CountsPerSecond,
        stacked=True,
    )
    yield series(
        "Requests by model and node",
        "Successful requests per second, by model and node.",
        (
            rate("inference_requests_total", f'{MODEL}, status="ok"', "model_id, node_id"),
            "{{model_id}} on {{node_id}}",
        ),
        unit=units.RequestsPerSecond,
        stacked=True,
    )
    yield heat(
        "Time to first token, all requests",
        "Distribution of the time to the first token.",
        f"sum by (le) (increase({first}_bucket{{{MODEL}}}{RATE}))",
    )
    yield heat(
        "Time per token, all requests",
        "Distribution of the time per token after the first.",
        f"sum by (le) (increase({token}_bucket{{{MODEL}}}{RATE}))",
    )
    yield series(
        "Prompt tokens",
        "Prompt tokens per second, and the part of them that came from the engine's cache.",
        (rate("inference_prompt_tokens_total", MODEL), "all"),
        (
            rate("inference_prompt_tokens_cached_total", MODEL),
            "cached",
        ),
        unit=units.CountsPerSecond,
        width=6,
    )
    yield series(
        "Tokens discarded",
        "Generated tokens per second that were not delivered.",
        (
            rate("inference_tokens_discarded_total", MODEL, "reason"),
            "{{reason}}",
        ),
        unit=units.CountsPerSecond,
        stacked=True,
        width=6,
    )
    yield series(
        "Finish reasons",
        "Finish reasons per second. stop: the model ended the answer. length: a limit did.",
        (
            rate("inference_finish_total", MODEL, "reason"),
            "{{reason}}",
        ),
        unit=units.RequestsPerSecond,
        stacked=True,
        width=6,
    )
    yield series(
        "Size of prompts and answers",
        "Median and 90th percentile of the tokens per request.",
        *[
            (query, f"{what} {legend}")
            for what in ("prompt", "output")
            for query, legend in quantiles(
                f"distributed_llm_inference_request_{what}_tokens", MODEL, "model_id", (0.5, 0.9)
            )
        ],
        width=6,
    )


def objectives() -> Iterator[PanelBuilder]:
    """How much of the error budget is spent?"""
    judged = "distributed_llm_inference_slo_requests_total"
    for what, title in (
        ("availability_errors", "Availability"),
        ("first_token_errors", "First token"),
    ):
        yield series(
            f"{title}: burn rate",
            "How many times faster than allowed the budget is spent. At 1 it lasts for the month; "
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
        "Share of judged requests that missed each objective (the exporter's --slo-… settings).",
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
            "Remaining share of the bad requests that an objective of 99% allows in 30 days. "
            "Below 0 it is overspent.",
            f'1 - (sum(increase({judged}{{{MODEL}, slo="{slo}", result="bad"}}[30d]))'
            f' / sum(increase({judged}{{{MODEL}, slo="{slo}"}}[30d]))) / {ALLOWED}',
            (None, RED),
            (0, ORANGE),
            (0.5, GREEN),
            unit=units.PercentUnit,
            width=6,
        )


def queue() -> Iterator[PanelBuilder]:
    """Where do requests wait, and does the engine make progress?"""
    yield series(
        "Slots",
        "Requests in the engines, and the engines' capacity.",
        (f"sum by (state) (distributed_llm_inference_slots{{{MODEL}}})", "{{state}}"),
        width=6,
    )
    yield series(
        "Time without progress",
        "Seconds that an engine with work has made no progress. It rises during each chunk of a "
        "prompt; above 30 s the engine has stalled.",
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
            *quantiles(f"distributed_llm_inference_{what}_seconds", MODEL, "model_id", (0.5, 0.9)),
            unit=units.Seconds,
            width=6,
        )
    yield series(
        "Engines replaced",
        "Engine processes that crashed or hung and were restarted, over the last 5 minutes.",
        (
            grown("engine_restarts_total", MODEL, "model_id, reason"),
            "{{model_id}} {{reason}}",
        ),
        width=6,
    )
    yield series(
        "Requests resumed",
        "Requests that lost their engine and continued on a new one, over the last 5 minutes.",
        (
            grown("inference_resumed_total", MODEL, "model_id, reason"),
            "{{model_id}} {{reason}}",
        ),
        width=6,
    )
    yield series(
        "Time since the last progress",
        "Seconds since the last prompt chunk or token of each engine. It also rises while there "
        "is no work, which is normal.",
        (
            f"time() - distributed_llm_engine_last_progress_timestamp_seconds{{{MODEL}}}",
            "{{model_id}} on {{node_id}}",
        ),
        unit=units.Seconds,
        width=6,
    )
    yield series(
        "Errors by reason",
        "Requests that ended with an error of this service, over the last 5 minutes. stopped: the "
        "node was stopped before the answer was complete.",
        (grown("inference_errors_total", MODEL, "model_id, reason"), "{{model_id}} {{reason}}"),
        width=12,
    )
    yield series(
        "Requests forwarded",
        "Requests that a peer answered for another node, over the last 5 minutes. lost: the peer "
        "was lost, and another node continued.",
        (grown("inference_forwarded_total", MODEL, "node_id, result"), "{{node_id}} {{result}}"),
        width=12,
    )


def models() -> Iterator[PanelBuilder]:
    """What is in memory, and how did it get there?"""
    yield rows(
        "Models in memory",
        "The models that each node has in memory.",
        f"distributed_llm_model_info{{{MODEL}}}",
        ("Value", "instance", "pod", "namespace"),
        width=12,
    )
    yield series(
        "Models loaded",
        "The number of models in memory, by node.",
        (f"distributed_llm_models_loaded{{{NODE}}}", "{{node_id}}"),
        width=6,
    )
    yield series(
        "Size of models",
        "Size of the weights in memory.",
        (f"distributed_llm_model_size_bytes{{{MODEL}}}", "{{model_id}} on {{node_id}}"),
        unit=units.BytesIEC,
        width=6,
        stacked=True,
    )
    yield series(
        "Layers by model and node",
        "The layers of each model on each node.",
        (f"distributed_llm_layers_allocated{{{MODEL}}}", "{{model_id}} on {{node_id}}"),
        stacked=True,
    )
    yield series(
        "Layers: used and possible",
        "Layers in use on each node, and the number that fits in its memory.",
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
        "Layers that do not fit on any live node. Above 0 the model is not served.",
        (f"max by (model_id) (distributed_llm_layers_unserved{{{MODEL}}})", "{{model_id}}"),
    )
    yield series(
        "Loads and unloads",
        "Loads and unloads over the last 5 minutes, by result and reason.",
        (
            grown("model_loads_total", MODEL, "model_id, result"),
            "load {{model_id}} {{result}}",
        ),
        (
            grown("model_unloads_total", MODEL, "model_id, reason"),
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
        "Share of a model that is downloaded, or read into memory.",
        (
            f"distributed_llm_model_load_progress_ratio{{{MODEL}}}",
            "{{model_id}} {{stage}} on {{node_id}}",
        ),
        unit=units.PercentUnit,
    )
