"""Requests for inference, from the queue to their end."""

from typing import Literal

from shared.events.event import Event
from shared.events.trace import TraceContext

RequestStatus = Literal["ok", "error", "timeout", "cancelled", "rejected"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
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


class LoadChanged(Event, frozen=True, tag=11):
    """Current requests and slots of one model. A level."""

    model_id: str
    in_flight: int
    queued: int
    slots_busy: int
    slots_total: int


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
