"""The vocabulary of telemetry: each event says what happened in the domain, never which metric.

Events are msgpack arrays that begin with an integer tag. Tags are never reused. Fields are only
added at the end, with a default, so that an older reader skips what it does not know and a newer
reader fills in what an older writer left out.
"""

import re
from typing import Final, Literal

import msgspec

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}")
"""All zeros are invalid (W3C Trace Context, section 3.2.2)."""

RequestStatus = Literal["ok", "error", "timeout", "cancelled", "rejected"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
NodeState = Literal["offline", "online", "busy", "draining", "unknown"]
UnloadReason = Literal["requested", "idle", "crashed", "stalled"]
LoadResult = Literal["ok", "error"]
RebuildReason = Literal["cut", "draining", "ended", "frozen", "refused", "engine"]
"""Why a pipeline ended: the connection to a node broke, the node is stopping, a worker's process
ended or made no progress, a node did not lend its worker, or the coordinator's engine ended."""
RestartReason = Literal["crashed", "stalled"]
ResumeReason = Literal["crashed", "stalled", "peer_lost"]
ErrorReason = Literal[
    "engine",
    "memory",
    "peer",
    "stopped",
    "timeout",
    "template",
    "schema",
    "internal",
    "other",
]
"""Why a request ended with the status `error`."""
Operation = Literal["chat", "text_completion", "embeddings"]
"""What a request asks for, in the words of OpenTelemetry's conventions for generative AI."""
LoadStage = Literal["download", "read"]
PeerState = Literal["alive", "suspect", "dead", "left", "incompatible"]
Direction = Literal["sent", "received"]
MessageType = Literal["survey", "answer", "leave", "forward"]
PeerOperation = Literal["survey", "forward"]
CertificateUse = Literal["api", "mesh"]
NetworkFault = Literal[
    "unauthenticated",
    "stale",
    "malformed",
    "incompatible",
    "oversize",
    "timeout",
    "connection",
    "lookup",
    "conflict",
    "overflow",
]
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
NodePart = Literal[
    "api_keys",
    "carrier",
    "certificates",
    "engine",
    "lane",
    "listener",
    "loop_lag",
    "mesh_answers",
    "mesh_rounds",
    "mesh_seeds",
    "mesh_surveys",
    "packer",
    "pipelines",
    "reaper",
    "router",
    "sampler",
    "terminal",
    "watchdog",
    "workers",
]
"""The long-lived parts of a node, each run by the guard."""


class TraceContext(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request's place in its caller's trace: W3C Trace Context, with its own span."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits: the span of the request on this node."""
    parent_id: str = ""
    """The caller's span; empty if this node began the trace."""
    sampled: bool | None = None
    """Whether the caller records the trace; None if that is left to the exporters."""

    @property
    def is_valid(self) -> bool:
        """Whether the ids are ids; a peer or a damaged event may hold anything."""
        return (
            _TRACE_ID.fullmatch(self.trace_id) is not None
            and _SPAN_ID.fullmatch(self.span_id) is not None
            and (not self.parent_id or _SPAN_ID.fullmatch(self.parent_id) is not None)
        )


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all events: an immutable array of plain values that the garbage collector skips."""


class NodeStarted(Event, frozen=True, tag=1):
    """The node's identity. A level: sent again when an exporter asks for it."""

    started_at: float
    """Start time in Unix seconds, by the node's clock."""
    version: str
    python: str
    engine: str
    api_url: str
    """URL at which the exporter's health check reaches the node's API."""


class NodeStateChanged(Event, frozen=True, tag=2):
    """What the node is doing now. A level."""

    state: NodeState


class ResourcesSampled(Event, frozen=True, tag=3):
    """What the node contributes to the mesh. A level."""

    cpu_cores: float
    """Cores that the process may use, as limited by its CPU affinity and the cgroup's quota."""
    memory_bytes: int
    max_layers: int
    """How many layers fit in memory, of the loaded model or else of the default one."""
    used_layers: int


class SystemSampled(Event, frozen=True, tag=4):
    """One sample of the node's process, its engine children and the host. A level."""

    uptime_seconds: float
    rss_bytes: int
    engine_rss_bytes: int
    available_bytes: int
    total_bytes: int
    swap_bytes: int
    node_cpu_percent: float
    engine_cpu_percent: float
    host_cpu_percent: float
    """Percent of one core for node and engine, percent of all cores for the host."""
    node_cpu_seconds: float
    engine_cpu_seconds: float
    """Totals since the node's start; ended child processes are included."""
    node_major_faults: int
    engine_major_faults: int
    tasks: int
    """Trio tasks that are running."""
    worker_threads_busy: int
    worker_threads_total: int
    open_descriptors: int = 0
    descriptors_limit: int = 0
    """How many the process may open; 0 if it has no limit."""


class EventLoopLagged(Event, frozen=True, tag=5):
    """How late the event loop woke a sleeping task, in seconds."""

    seconds: float


class ModelLoaded(Event, frozen=True, tag=6):
    """A model became ready to serve, after `seconds` of loading."""

    model_id: str
    seconds: float


class ModelLoadFailed(Event, frozen=True, tag=7):
    """A model could not be loaded."""

    model_id: str
    seconds: float


class ModelUnloaded(Event, frozen=True, tag=8):
    """A model was unloaded; its level series are removed with it."""

    model_id: str
    reason: UnloadReason


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


class EngineRestarted(Event, frozen=True, tag=10):
    """An engine child was replaced by a new one."""

    model_id: str
    reason: RestartReason


class LoadChanged(Event, frozen=True, tag=11):
    """Current requests and slots of one model. A level."""

    model_id: str
    in_flight: int
    queued: int
    slots_busy: int
    slots_total: int


class EngineProgressed(Event, frozen=True, tag=12):
    """When the engine last completed a prompt chunk or a token. A level."""

    model_id: str
    at: float
    """Unix time in seconds, by the node's clock; 0 before the first."""
    silent_seconds: float = 0.0
    """Seconds that the current work has made no progress; 0 without work."""


class TokensGenerated(Event, frozen=True, tag=13):
    """Tokens of one request were sampled since its last such event; sent several times a second."""

    model_id: str
    count: int
    drawn_at: tuple[float, ...] = ()
    """When each was drawn, in seconds of the node's monotonic clock, after the time of the token
    before them, if this node drew one. The gaps between them include a change of the engine."""


class InferenceFinished(Event, frozen=True, tag=14):
    """A request ended, for any reason. The three phases add up to `seconds`.

    A phase that the request did not reach is 0. `first_token_seconds` is None if no token was
    sampled.
    """

    model_id: str
    status: RequestStatus
    finish_reason: FinishReason | None
    """None for a request that was rejected before admission."""
    seconds: float
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    first_token_seconds: float | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    discarded_tokens: int
    """Tokens that were generated and then discarded, because the client had left."""
    request_id: str = ""
    """For exemplars, the request log and traces, never a label. The same holds for what follows."""
    trace: TraceContext | None = None
    route: str = ""
    """Route template or gRPC method by which the caller's request came, perhaps to another node."""
    client: str = ""
    """`key:` or `certificate:` and the name of the caller's credentials; empty without any."""
    operation: Operation = "text_completion"
    reason: ErrorReason | None = None
    """Why the status is `error`; None for another status."""
    code: str = ""
    """The code of the error with which the caller was answered, such as `queue_full`."""
    ended_at: float = 0.0
    """Unix time in seconds, by the node's clock; 0 from a node that does not report it."""
    local_seconds: float = 0.0
    """Time since the request came to this node. Unlike `seconds` it excludes a wait on the node
    that forwarded it, and includes the time of a peer that was lost."""
    resumed: int = 0
    """How often this node continued it after its engine or its node was lost."""


class HttpFinished(Event, frozen=True, tag=15):
    """An HTTP response was sent completely, or its client disconnected."""

    route: str
    """The route's template, never the requested path."""
    method: str
    status: int
    seconds: float


class RpcFinished(Event, frozen=True, tag=16):
    """A gRPC call ended, for any reason."""

    method: str
    """`package.Service/Method`, only for methods that the node implements."""
    code: str
    """The canonical status in lower case, such as `ok` or `deadline_exceeded`."""
    seconds: float


class InferenceResumed(Event, frozen=True, tag=17):
    """A request that lost its engine or its node continued here and kept its tokens."""

    model_id: str
    reason: ResumeReason
    request_id: str = ""
    trace: TraceContext | None = None
    resumed_at: float = 0.0
    """Unix time in seconds, by the node's clock."""
    lost_seconds: float = 0.0
    """How long it was without an engine."""


class ModelLoadProgressed(Event, frozen=True, tag=18):
    """Progress of a model's download or load. A level, removed together with the model."""

    model_id: str
    stage: LoadStage
    done_bytes: int
    total_bytes: int


class PeerChanged(Event, frozen=True, tag=19):
    """This node's view of a peer changed. A level."""

    peer: str
    """The peer's node id."""
    state: PeerState
    status: NodeState
    """The state that the peer reports about itself."""


class PeerForgotten(Event, frozen=True, tag=20):
    """A departed peer was forgotten; its series are removed."""

    peer: str


class PeersCounted(Event, frozen=True, tag=21):
    """The number of connected peers. A level."""

    alive: int
    suspect: int


class PeerAnswered(Event, frozen=True, tag=22):
    """A peer answered a survey after `seconds`."""

    peer: str
    operation: PeerOperation
    seconds: float


class MessagesMoved(Event, frozen=True, tag=23):
    """Messages of one kind that were sent or received since the last such event."""

    direction: Direction
    message_type: MessageType
    count: int
    size_bytes: int
    """Total size of these messages."""


class NetworkFailed(Event, frozen=True, tag=24):
    """The mesh refused something, or failed, `count` times since the last such event."""

    reason: NetworkFault
    count: int


class LayersPlanned(Event, frozen=True, tag=25):
    """What the mesh's plan achieves for a model. A level."""

    model_id: str
    layers: int
    unserved: int
    """Layers that do not fit on any living node."""


class InternalError(Event, frozen=True, tag=26):
    """A part of the node raised an unexpected error and continued."""

    part: NodePart


class CertificateRead(Event, frozen=True, tag=27):
    """A certificate of the node was read and is in use. A level."""

    use: CertificateUse
    expires_at: float
    """Unix time in seconds, as the certificate says."""


class RequestForwarded(Event, frozen=True, tag=28):
    """A peer that had begun a request of this node ended it, or was lost. The peer counts it."""

    model_id: str
    peer: str
    """The peer's node id."""
    status: RequestStatus | None
    """How the request ended; None if it continues on another node."""
    finish_reason: FinishReason | None
    seconds: float
    """Time since the request came to this node."""
    queue_seconds: float
    """How long it waited here before the peer was asked."""
    peer_seconds: float
    """Time since the peer was asked."""
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    """Tokens of the answer so far, those of other nodes included."""
    ended_at: float
    """Unix time in seconds, by the node's clock."""
    request_id: str
    trace: TraceContext | None
    """The request's; it is the parent of `span_id`."""
    span_id: str
    """The span of the forward, and the parent of the request's span on the peer."""
    route: str
    client: str
    operation: Operation
    reason: ErrorReason | None
    code: str
    """As in `InferenceFinished`."""


class EngineSampled(Event, frozen=True, tag=29):
    """What an engine works on and holds: emit once a second while its model is loaded.

    What an engine does not report is None and has no series. The newest sample is a level, but it
    is not sent again on request, because each one is also an observation.
    """

    model_id: str
    decoding: int | None = None
    """Sequences whose next token the newest step computed together; 0 if none is decoded."""
    context_used: int | None = None
    """Tokens of the requests in work, over all slots."""
    context_held: int | None = None
    """Tokens in all slots, including those kept of ended requests for the next prompts."""
    context_capacity: int | None = None
    """Tokens that fit in all slots together."""


class TokensSpeculated(Event, frozen=True, tag=30):
    """Tokens that an engine drafted for a request; emit when the engine reports them.

    Most engines do so at the end of the request, and only with a draft model.
    """

    model_id: str
    drafted: int
    accepted: int
    """How many of them the model itself would have drawn: they cost no step of their own."""


class PeerPage(Event, frozen=True, tag=31):
    """Where a peer's status page is. A level, removed together with the peer."""

    peer: str
    url: str
    """As it can be reached from this node."""


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
