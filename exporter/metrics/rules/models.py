"""Models that a node loads, holds and unloads."""

from typing import Final

from exporter.metrics.catalogue.engine import ENGINE_MEMORY
from exporter.metrics.catalogue.models import (
    LAYERS_ALLOCATED,
    LAYERS_UNSERVED,
    MODEL_INFO,
    MODEL_LOAD_DURATION,
    MODEL_LOAD_PROGRESS,
    MODEL_LOADS,
    MODEL_SIZE,
    MODEL_UNLOADS,
)
from exporter.metrics.rules.rule import Rule, Sample
from shared.events.event import Event
from shared.events.models import (
    LayersPlanned,
    ModelDescribed,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelUnloaded,
)


def _model_loaded(node: str, e: ModelLoaded) -> tuple[Sample, ...]:
    return (
        (MODEL_LOADS, (node, e.model_id, "ok"), 1),
        (MODEL_LOAD_DURATION, (node, e.model_id), e.seconds),
    )


def _model_load_failed(node: str, e: ModelLoadFailed) -> tuple[Sample, ...]:
    return (
        (MODEL_LOADS, (node, e.model_id, "error"), 1),
        (MODEL_LOAD_DURATION, (node, e.model_id), e.seconds),
    )


def _model_unloaded(node: str, e: ModelUnloaded) -> tuple[Sample, ...]:
    return ((MODEL_UNLOADS, (node, e.model_id, e.reason), 1),)


def _model_described(node: str, e: ModelDescribed) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    here = e.layers if e.layers_here is None else e.layers_here
    weights = ((MODEL_SIZE, model, e.size_bytes), (LAYERS_ALLOCATED, model, here))
    return (
        *(weights if e.layers else ()),  # those of an engine elsewhere are unknown
        (MODEL_INFO, (*model, e.architecture, e.quantization, e.engine, e.build), 1),
        *((ENGINE_MEMORY, (*model, device), size_bytes) for device, size_bytes in e.devices),
    )


def _model_load_progressed(node: str, e: ModelLoadProgressed) -> tuple[Sample, ...]:
    ratio = min(1.0, e.done_bytes / e.total_bytes) if e.total_bytes > 0 else 0.0
    return ((MODEL_LOAD_PROGRESS, (node, e.model_id, e.stage), ratio),)


def _layers_planned(node: str, e: LayersPlanned) -> tuple[Sample, ...]:
    return ((LAYERS_UNSERVED, (node, e.model_id), e.unserved),)


RULES: Final[dict[type[Event], Rule]] = {
    ModelLoaded: _model_loaded,
    ModelLoadFailed: _model_load_failed,
    ModelUnloaded: _model_unloaded,
    ModelDescribed: _model_described,
    ModelLoadProgressed: _model_load_progressed,
    LayersPlanned: _layers_planned,
}
