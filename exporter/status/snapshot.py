"""The format of `/status`: one picture of everything that the page and `top` show.

JSON, documented in docs/status.md. Fields are only added, with a default, so that readers of other
versions can read it; `version` rises only if an older reader would misread it. Never a prompt.
"""

from typing import Final, Literal

import msgspec

from shared.events.engine import RestartReason
from shared.events.node import NodeState
from shared.events.requests import ErrorReason, FinishReason, RequestStatus

VERSION: Final = 1

Health = Literal["ok", "degraded", "failed"]
ModelState = Literal["loaded", "loading", "unloaded"]


class Exporter(msgspec.Struct, frozen=True, kw_only=True):
    """The exporter itself."""

    version: str
    uptime_seconds: float
    durable: bool
    """Whether a restart would lose nothing."""
    failure: str
    """Why it is not durable."""
    window_seconds: float
    """The time that counts and percentiles cover, or less after a start."""


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of the time to the first token, in seconds; null without requests."""

    p50_seconds: float | None
    p95_seconds: float | None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What a model, or all models of a node, did lately and do now."""

    tokens_per_second: float | None
    """Over the last 5 to 10 seconds."""
    first_token: FirstToken
    ended: dict[RequestStatus, int]
    """Requests that ended within the window, by status."""
    in_flight: int
    queued: int
    slots_busy: int
    slots_total: int


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a node."""

    model_id: str
    state: ModelState
    load_ratio: float | None
    """How much is downloaded or read, from 0 to 1, while it loads."""
    architecture: str
    quantization: str
    size_bytes: float
    layers: int
    traffic: Traffic
    silent_seconds: float
    """How long the work in hand has made no progress."""
    stalled: bool
    """Whether that is too long."""
    restarts: dict[RestartReason, int]
    """How often its engine was replaced, since counting began."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """The telemetry's proof: emitted = applied + dropped, and nothing lost."""

    emitted: int
    applied: int
    dropped: int
    lost: int
    lag_seconds: float
    """How long the oldest event of the last batch had waited in the node."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another node of the mesh, as this node sees it."""

    node_id: str
    status: NodeState
    page_url: str = ""
    """The peer's own status page; empty if it is not known."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The node's machine; null where the node has not reported it."""

    cpu_cores: float | None
    host_cpu_percent: float | None
    """Of all cores."""
    node_cpu_percent: float | None
    engine_cpu_percent: float | None
    """These two of one core."""
    node_bytes: float | None
    engine_bytes: float | None
    available_bytes: float | None
    total_bytes: float | None


class Sparklines(msgspec.Struct, frozen=True, kw_only=True):
    """The last 15 minutes, oldest first; null where the node was not up or had no request."""

    step_seconds: float
    tokens_per_second: list[float | None]
    first_token_p95_seconds: list[float | None]
    queued: list[float | None]
    failed: list[float | None]
    """Requests that ended with an error or a timeout, in each step."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    node_id: str
    up: bool
    departed: bool
    """Whether it is away and said goodbye."""
    state: NodeState
    silent_seconds: float | None
    uptime_seconds: float | None
    version: str
    python: str
    engine: str
    traffic: Traffic
    models: list[Model]
    machine: Machine
    telemetry: Proof
    peers: list[Peer]
    sparklines: Sparklines


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request that ended."""

    at: float
    """Unix time."""
    node_id: str
    model_id: str
    request_id: str
    status: RequestStatus
    finish_reason: FinishReason | None
    seconds: float
    queue_seconds: float
    first_token_seconds: float | None
    prompt_tokens: int
    generated_tokens: int
    tokens_per_second: float | None
    """After the first token."""
    route: str
    """Route template or gRPC method; empty if the node did not report it."""
    reason: ErrorReason | None
    """Why it failed, if it did."""
    resumed: int
    """How often it continued after its engine or its node was lost."""
    trace_id: str
    """Empty without a trace."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment."""

    version: int = VERSION
    at: float
    """Unix time."""
    health: Health
    problems: list[str]
    """What is wrong, in sentences; empty if all is well."""
    exporter: Exporter
    nodes: list[Node]
    nodes_left_out: int = 0
    """Nodes past the number that is shown."""
    requests: list[Request]
    """The last ones, newest first."""
