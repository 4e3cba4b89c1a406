"""Models that are split over nodes, and the workers lent to them."""

from typing import Final

from exporter.metrics.catalogue.models import LAYERS_ALLOCATED
from exporter.metrics.catalogue.pipelines import (
    PIPELINE_BYTES,
    PIPELINE_HOP,
    PIPELINE_REBUILDS,
    PIPELINE_STAGES,
    PIPELINE_STAGES_UP,
    WORKER_ENDS,
    WORKER_LEASES,
    WORKER_REFUSALS,
)
from exporter.metrics.rules.rule import Rule, Sample
from shared.events.event import Event
from shared.events.pipelines import (
    PipelineChanged,
    PipelineMoved,
    PipelineRebuilt,
    StageHeld,
    WorkerEnded,
    WorkerRefused,
    WorkersLent,
)


def _workers_lent(node: str, e: WorkersLent) -> tuple[Sample, ...]:
    return ((WORKER_LEASES, (node,), e.count),)


def _worker_refused(node: str, e: WorkerRefused) -> tuple[Sample, ...]:
    return ((WORKER_REFUSALS, (node, e.reason), 1),)


def _worker_ended(node: str, e: WorkerEnded) -> tuple[Sample, ...]:
    return ((WORKER_ENDS, (node, e.end), 1),)


def _pipeline_changed(node: str, e: PipelineChanged) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return ((PIPELINE_STAGES, model, e.stages), (PIPELINE_STAGES_UP, model, e.stages_up))


def _pipeline_moved(node: str, e: PipelineMoved) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (PIPELINE_BYTES, (*model, "sent"), e.sent_bytes),
        (PIPELINE_BYTES, (*model, "received"), e.received_bytes),
        *((PIPELINE_HOP, (*model, e.peer), seconds) for seconds in e.hop_seconds),
    )


def _pipeline_rebuilt(node: str, e: PipelineRebuilt) -> tuple[Sample, ...]:
    return ((PIPELINE_REBUILDS, (node, e.model_id, e.reason), 1),)


def _stage_held(node: str, e: StageHeld) -> tuple[Sample, ...]:
    return ((LAYERS_ALLOCATED, (node, e.model_id), e.layers),)


RULES: Final[dict[type[Event], Rule]] = {
    WorkersLent: _workers_lent,
    WorkerRefused: _worker_refused,
    WorkerEnded: _worker_ended,
    PipelineChanged: _pipeline_changed,
    PipelineMoved: _pipeline_moved,
    PipelineRebuilt: _pipeline_rebuilt,
    StageHeld: _stage_held,
}
