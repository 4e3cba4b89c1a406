"""The row of the dashboard about models that are split over nodes."""

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from deployments.grafana.panels import PanelBuilder, series
from deployments.grafana.queries import MODEL, NODE, grown, quantiles, rate


def split_models() -> Iterator[PanelBuilder]:
    """Which stages work, what do they cost, and who lends the workers?"""
    yield series(
        "Stages",
        "Stages of each split model, and those that work: with fewer it is not served.",
        (f"distributed_llm_pipeline_stages_up{{{MODEL}}}", "up {{model_id}} by {{node_id}}"),
        (f"distributed_llm_pipeline_stages{{{MODEL}}}", "planned {{model_id}} by {{node_id}}"),
    )
    yield series(
        "Rebuilds",
        "Pipelines that ended and were planned again over the last 5 minutes, by reason.",
        (grown("pipeline_rebuilds_total", MODEL, "model_id, reason"), "{{model_id}} {{reason}}"),
    )
    yield series(
        "Traffic between stages",
        "Bytes per second between coordinators and workers.",
        (rate("pipeline_bytes_total", MODEL, "model_id, direction"), "{{model_id}} {{direction}}"),
        unit=units.BytesPerSecondIEC,
    )
    yield series(
        "Latency of a hop",
        "The round trip from a coordinator to each worker's node; each token takes one or more.",
        *quantiles(
            "distributed_llm_pipeline_hop_latency_seconds", MODEL, "target_node", (0.5, 0.95)
        ),
        unit=units.Seconds,
    )
    yield series(
        "Workers lent",
        "Workers that each node lends to models split over nodes.",
        (f"distributed_llm_worker_leases{{{NODE}}}", "{{node_id}}"),
    )
    yield series(
        "Workers refused and ended",
        "Per second. memory: the layers do not fit. build: another build of llama.cpp. ended: the "
        "worker's process is gone. frozen: it was stopped.",
        (rate("worker_refusals_total", NODE, "reason"), "refused: {{reason}}"),
        (rate("worker_ends_total", NODE, "reason"), "{{reason}}"),
        unit=units.CountsPerSecond,
    )
