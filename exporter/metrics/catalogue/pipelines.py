"""Models that are split over nodes, and the workers lent to them."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import (
    MODEL,
    NETWORK_BUCKETS,
    NODE,
    counter,
    gauge,
    histogram,
)
from shared.events.mesh import Direction
from shared.events.pipelines import RebuildReason, WorkerEnd, WorkerRefusal

WORKER_LEASES: Final = gauge("worker_leases", "Workers lent to pipelines of other nodes.", *NODE)
WORKER_REFUSALS: Final = counter(
    "worker_refusals_total",
    "Refusals to lend a worker to a pipeline of another node, by reason.",
    *NODE,
    "reason",
    reason=get_args(WorkerRefusal),
)
WORKER_ENDS: Final = counter(
    "worker_ends_total",
    "Workers that were taken back from a pipeline of another node, by reason.",
    *NODE,
    "reason",
    reason=get_args(WorkerEnd),
)
PIPELINE_STAGES: Final = gauge(
    "pipeline_stages",
    "Stages of a split model that this node coordinates; 0 while the nodes cannot hold it.",
    *MODEL,
)
PIPELINE_STAGES_UP: Final = gauge(
    "pipeline_stages_up", "Stages that work; all of them once the model is loaded.", *MODEL
)
PIPELINE_BYTES: Final = counter(
    "pipeline_bytes_total",
    "Bytes between a coordinator and its workers.",
    *MODEL,
    "direction",
    direction=get_args(Direction),
)
PIPELINE_REBUILDS: Final = counter(
    "pipeline_rebuilds_total",
    "Pipelines that ended and were planned again, by reason.",
    *MODEL,
    "reason",
    reason=get_args(RebuildReason),
)
PIPELINE_HOP: Final = histogram(
    "pipeline_hop_latency_seconds",
    NETWORK_BUCKETS,
    "Round-trip time to a worker's node through its tunnel, in seconds.",
    *MODEL,
    "target_node",
)
