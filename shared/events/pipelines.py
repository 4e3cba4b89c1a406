"""Models that are split over nodes, and the workers lent to them."""

from typing import Literal

from shared.events.event import Event

RebuildReason = Literal["cut", "draining", "ended", "frozen", "refused", "engine"]
"""Why a pipeline ended: the connection to a node broke, the node is stopping, a worker's process
ended or made no progress, a node did not lend its worker, or the coordinator's engine ended."""
WorkerRefusal = Literal[
    "absent", "build", "busy", "draining", "failed", "memory", "unauthenticated"
]
"""Why a worker is not lent: the node has none, has another build, lends as many as it can, is
stopping, could not start it, has too little memory, or does not trust the caller."""
WorkerLoss = Literal["cut", "draining", "ended", "frozen"]
"""Why a worker that was lent is lost: the connection broke or the node died, the node is stopping,
the worker ended, or the worker or its node makes no progress."""
WorkerEnd = Literal["released", "draining", "ended", "frozen"]
"""Why a worker was taken back: its coordinator is gone, or one of the above."""


class PipelineChanged(Event, frozen=True, tag=32):
    """The stages of a split model that this node coordinates. A level."""

    model_id: str
    stages: int
    """0 while the nodes cannot hold it together."""
    stages_up: int
    """Those that work: all of them once the model is loaded, else those with an open tunnel."""


class PipelineMoved(Event, frozen=True, tag=33):
    """What passed between a coordinator and one worker since the last such event."""

    model_id: str
    peer: str
    """The worker's node id."""
    sent_bytes: int
    received_bytes: int
    hop_seconds: tuple[float, ...] = ()
    """Round trips of the tunnel's heartbeat."""


class PipelineRebuilt(Event, frozen=True, tag=34):
    """A pipeline ended and is planned again."""

    model_id: str
    reason: RebuildReason


class StageHeld(Event, frozen=True, tag=35):
    """Layers of a model that this node holds for a coordinator. A level."""

    model_id: str
    layers: int
    """0 when it holds none any more."""


class WorkersLent(Event, frozen=True, tag=40):
    """What this node lends to pipelines of others. A level of a node that can lend."""

    count: int
    """How many workers."""


class WorkerRefused(Event, frozen=True, tag=41):
    """A pipeline of another node got no worker here."""

    reason: WorkerRefusal


class WorkerEnded(Event, frozen=True, tag=42):
    """A worker that was lent has ended."""

    end: WorkerEnd
