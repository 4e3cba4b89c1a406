"""Models that a node loads, holds and unloads."""

from typing import Literal

from shared.events.event import Event

UnloadReason = Literal["requested", "idle", "crashed", "stalled"]
LoadResult = Literal["ok", "error"]
LoadStage = Literal["download", "read"]


class ModelLoaded(Event, frozen=True, tag=6):
    """A model became ready to serve, after `seconds` of loading."""

    model_id: str
    seconds: float


class ModelLoadFailed(Event, frozen=True, tag=7):
    """A model could not be loaded."""

    model_id: str
    seconds: float


class ModelLoadProgressed(Event, frozen=True, tag=18):
    """Progress of a model's download or load. A level, removed together with the model."""

    model_id: str
    stage: LoadStage
    done_bytes: int
    total_bytes: int


class ModelDescribed(Event, frozen=True, tag=9):
    """Description of a loaded model. A level."""

    model_id: str
    architecture: str
    quantization: str
    engine: str
    size_bytes: int
    layers: int
    build: str = ""
    """The engine's own version, as it names it; empty if it has none."""
    devices: tuple[tuple[str, int], ...] = ()
    """The devices that hold the model, each with the bytes in use there; empty if unknown."""
    layers_here: int | None = None
    """How many of its layers this node holds; None for all of them."""


class ModelUnloaded(Event, frozen=True, tag=8):
    """A model was unloaded; its level series are removed with it."""

    model_id: str
    reason: UnloadReason


class LayersPlanned(Event, frozen=True, tag=25):
    """What the mesh's plan achieves for a model. A level."""

    model_id: str
    layers: int
    unserved: int
    """Layers that do not fit on any living node."""
