"""The union of all events, which a decoder needs."""

from shared.events.api import HttpFinished, RpcFinished
from shared.events.engine import EngineProgressed, EngineRestarted, EngineSampled, TokensSpeculated
from shared.events.mesh import (
    MessagesMoved,
    NetworkFailed,
    PeerAnswered,
    PeerChanged,
    PeerForgotten,
    PeerPage,
    PeersCounted,
)
from shared.events.models import (
    LayersPlanned,
    ModelDescribed,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoadProgressed,
    ModelUnloaded,
)
from shared.events.node import (
    CertificateRead,
    InternalError,
    NodeStarted,
    NodeStateChanged,
    ResourcesSampled,
)
from shared.events.pipelines import (
    PipelineChanged,
    PipelineMoved,
    PipelineRebuilt,
    StageHeld,
    WorkerEnded,
    WorkerRefused,
    WorkersLent,
)
from shared.events.requests import (
    InferenceFinished,
    InferenceResumed,
    LoadChanged,
    RequestForwarded,
    TokensGenerated,
)
from shared.events.system import EventLoopLagged, SystemSampled

AnyEvent = (
    NodeStarted
    | NodeStateChanged
    | ResourcesSampled
    | SystemSampled
    | EventLoopLagged
    | ModelLoaded
    | ModelLoadFailed
    | ModelUnloaded
    | ModelDescribed
    | EngineRestarted
    | LoadChanged
    | EngineProgressed
    | TokensGenerated
    | InferenceFinished
    | HttpFinished
    | RpcFinished
    | InferenceResumed
    | ModelLoadProgressed
    | PeerChanged
    | PeerForgotten
    | PeersCounted
    | PeerAnswered
    | MessagesMoved
    | NetworkFailed
    | LayersPlanned
    | InternalError
    | CertificateRead
    | RequestForwarded
    | EngineSampled
    | TokensSpeculated
    | PeerPage
    | WorkersLent
    | WorkerRefused
    | WorkerEnded
    | PipelineChanged
    | PipelineMoved
    | PipelineRebuilt
    | StageHeld
)
"""Every event that a decoder accepts; a test checks that none is missing."""
