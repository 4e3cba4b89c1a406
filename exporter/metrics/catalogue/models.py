"""Models on a node: what they are, and their loads."""

from typing import Final, get_args

from exporter.metrics.catalogue.family import MODEL, NODE, counter, gauge, histogram
from shared.events.models import LoadResult, LoadStage, UnloadReason

_LOAD: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600)

MODELS_LOADED: Final = gauge("models_loaded", "Models that are loaded.", *NODE, derived=True)
MODEL_SIZE: Final = gauge("model_size_bytes", "Bytes of a loaded model's weights.", *MODEL)
LAYERS_ALLOCATED: Final = gauge("layers_allocated", "Layers of a model on this node.", *MODEL)
LAYERS_UNSERVED: Final = gauge(
    "layers_unserved",
    "Layers of a model, loaded or not, that do not fit on any living node.",
    *MODEL,
)
MODEL_INFO: Final = gauge(
    "model_info",
    "Description of a model and its engine, as labels; always 1.",
    *MODEL,
    "architecture",
    "quantization",
    "engine",
    "build",
)
MODEL_LOAD_DURATION: Final = histogram(
    "model_load_duration_seconds", _LOAD, "Duration of a model's load in seconds.", *MODEL
)
MODEL_LOAD_PROGRESS: Final = gauge(
    "model_load_progress_ratio",
    "Share of a model that is downloaded or read into memory, 0 to 1.",
    *MODEL,
    "stage",
    stage=get_args(LoadStage),
)
MODEL_LOADS: Final = counter(
    "model_loads_total",
    "Loads by result.",
    *MODEL,
    "result",
    result=get_args(LoadResult),
)
MODEL_UNLOADS: Final = counter(
    "model_unloads_total",
    "Models that were unloaded, by reason.",
    *MODEL,
    "reason",
    reason=get_args(UnloadReason),
)
