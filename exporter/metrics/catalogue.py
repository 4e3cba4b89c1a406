"""Every metric family that the exporter serves, declared once.

The registry, the reference page and the tests are derived from `FAMILIES`; no name is written
anywhere else. Names marked in the contract keep the contract's words and labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from shared.events.engine import RestartReason
from shared.events.mesh import Direction, MessageType, NetworkFault, PeerOperation
from shared.events.models import LoadResult, LoadStage, UnloadReason
from shared.events.node import CertificateUse, NodePart, NodeState
from shared.events.pipelines import RebuildReason, WorkerEnd, WorkerRefusal
from shared.events.requests import ErrorReason, FinishReason, RequestStatus, ResumeReason

PREFIX: Final = "distributed_llm_"
OTHER: Final = "other"
"""The label value that replaces those beyond a family's budget."""

Scope = Literal["node", "model", "exporter"]
ExporterPart = Literal[
    "feed",
    "health",
    "ingest",
    "journal",
    "listener",
    "reaper",
    "request_log",
    "silence",
    "disk",
    "socket_path",
    "status",
    "terminal",
    "tokens",
    "traces",
    "watchdog",
    "web_config",
]
"""The long-lived parts of the exporter, each under its guard."""

_E2E: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_FIRST_TOKEN: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_GAP: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_PHASE: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_CALL: Final = (0.1, 1, 10)
"""Few, because each route, method and status has its own; the model's families are finer."""
_CHECK: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_SEQUENCES: Final = (1, 2, 4, 8, 16, 32, 64)
_LOAD: Final = (1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_NET: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LAG: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 5)

STATUS_CODES: Final[Mapping[NodeState, int]] = {
    "offline": 0,
    "online": 1,
    "busy": 2,
    "unknown": 3,
    "draining": 2,  # takes no request, like a busy node
}
CHECKS: Final = ("events", "node_api", "engine", "journal", "render")
REJECTIONS: Final = ("malformed", "protocol", "conflict", "internal")
PARTS: Final = get_args(ExporterPart)
DROPS: Final = ("buffer_full", "backlog_full", "oversize", "unencodable", "rejected")


@dataclass(frozen=True, eq=False)
class Family:
    """One metric family.

    `vocabulary` lists the values of labels that are closed sets; if all labels except the node's
    and the model's are closed, the series start at 0. A gauge is a level and ends with its node's
    session; `derived` ones are computed at the scrape instead. A `total` is a counter that events
    carry as the session's running total.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    derived: bool = False
    total: bool = False

    @property
    def scope(self) -> Scope:
        """What owns its series."""
        if self.labels[:2] == ("node_id", "model_id"):
            return "model"
        return "node" if self.labels[:1] == ("node_id",) else "exporter"

    @property
    def open_labels(self) -> tuple[str, ...]:
        """Labels beyond the owner's that can take any value."""
        owner = {"node": 1, "model": 2, "exporter": 0}[self.scope]
        return tuple(label for label in self.labels[owner:] if label not in self.vocabulary)

    @property
    def grows(self) -> bool:
        """Whether the number of its series depends on more than nodes and models."""
        return self.scope != "exporter" and bool(self.open_labels)


def _counter(
    name: str, text: str, *labels: str, total: bool = False, **vocabulary: tuple[str, ...]
) -> Family:
    return Family(name, "counter", text, labels, vocabulary=vocabulary, total=total)


def _gauge(
    name: str, text: str, *labels: str, derived: bool = False, **vocabulary: tuple[str, ...]
) -> Family:
    return Family(name, "gauge", text, labels, vocabulary=vocabulary, derived=derived)


def _histogram(
    name: str, buckets: tuple[float, ...], text: str, *labels: str, **vocabulary: tuple[str, ...]
) -> Family:
    return Family(name, "histogram", text, labels, buckets, vocabulary)


_NODE: Final = ("node_id",)
_MODEL: Final = ("node_id", "model_id")
_STATUS: Final = get_args(RequestStatus)
_SCOPES: Final = ("node", "engine")

# Node
NODE_STATUS: Final = _gauge(
    "node_status", "Node status: 0 offline, 1 online, 2 busy, 3 unknown.", *_NODE, derived=True
)
NODE_UPTIME: Final = _gauge("node_uptime_seconds", "Seconds since the node's start.", *_NODE)
NODE_RESOURCES: Final = _gauge(
    "node_resources",
    "What the node brings: cores, bytes of memory, layers that the memory holds, layers used.",
    *_NODE,
    "resource_type",
    resource_type=("cpu_cores", "memory_bytes", "max_layers", "used_layers"),
)
NODE_UP: Final = _gauge(
    "node_up", "1 while the node's heartbeats come, else 0.", *_NODE, derived=True
)
NODE_DEPARTED: Final = _gauge(
    "node_departed",
    "1 while the node is away and said goodbye; 0 while it is up, and when it was lost.",
    *_NODE,
    derived=True,
)
NODE_START_TIME: Final = _gauge(
    "node_start_time_seconds", "Unix time of the node's start, in seconds.", *_NODE
)
NODE_INFO: Final = _gauge(
    "node_info", "Versions that the node runs; always 1.", *_NODE, "version", "python", "engine"
)
NODE_ENDS: Final = _counter(
    "node_ends_total",
    "Ends of the node's runs: with a goodbye, or lost without one.",
    *_NODE,
    "reason",
    reason=("goodbye", "lost"),
)
NODE_STATE: Final = _gauge(
    "node_state",
    "1 for the state that the node is in, 0 for the others.",
    *_NODE,
    "state",
    derived=True,
    state=get_args(NodeState),
)
NODE_INTERNAL_ERRORS: Final = _counter(
    "node_internal_errors_total",
    "Unexpected errors in a part of the node, which went on.",
    *_NODE,
    "part",
    part=get_args(NodePart),
)

# Network
NETWORK_CONNECTIONS: Final = _gauge(
    "network_connections",
    "Peers connected, by this node's view of them.",
    *_NODE,
    "state",
    state=("alive", "suspect"),
)
NETWORK_MESSAGES: Final = _counter(
    "network_messages_total",
    "Messages between nodes.",
    *_NODE,
    "direction",
    "message_type",
    direction=get_args(Direction),
    message_type=get_args(MessageType),
)
NETWORK_LATENCY: Final = _histogram(
    "network_latency_seconds",
    _NET,
    "Seconds until a peer answered.",
    *_NODE,
    "target_node",
    "operation",
    operation=get_args(PeerOperation),
)
NETWORK_BYTES: Final = _counter(
    "network_bytes_total",
    "Bytes of messages between nodes.",
    *_NODE,
    "direction",
    direction=get_args(Direction),
)
NETWORK_ERRORS: Final = _counter(
    "network_errors_total",
    "Messages refused and exchanges failed between nodes, by reason.",
    *_NODE,
    "reason",
    reason=get_args(NetworkFault),
)
PEER_STATUS: Final = _gauge(
    "peer_status",
    "A peer's status in this node's view: 0 offline, 1 online, 2 busy, 3 unknown.",
    *_NODE,
    "peer",
)

# Workers lent to models that are split over nodes
WORKER_LEASES: Final = _gauge("worker_leases", "Workers lent to pipelines of other nodes.", *_NODE)
WORKER_REFUSALS: Final = _counter(
    "worker_refusals_total",
    "Workers that were not lent to a pipeline of another node, by reason.",
    *_NODE,
    "reason",
    reason=get_args(WorkerRefusal),
)
WORKER_ENDS: Final = _counter(
    "worker_ends_total",
    "Workers that were taken back from a pipeline of another node, by reason.",
    *_NODE,
    "reason",
    reason=get_args(WorkerEnd),
)

# Models that are split over nodes
PIPELINE_STAGES: Final = _gauge(
    "pipeline_stages",
    "Stages of a split model that this node coordinates; 0 while no split holds it.",
    *_MODEL,
)
PIPELINE_STAGES_UP: Final = _gauge(
    "pipeline_stages_up", "Those of them that work; all of them once the model is loaded.", *_MODEL
)
PIPELINE_BYTES: Final = _counter(
    "pipeline_bytes_total",
    "Bytes between a coordinator and its workers.",
    *_MODEL,
    "direction",
    direction=get_args(Direction),
)
PIPELINE_REBUILDS: Final = _counter(
    "pipeline_rebuilds_total",
    "Pipelines that ended and were planned again, by reason.",
    *_MODEL,
    "reason",
    reason=get_args(RebuildReason),
)
PIPELINE_HOP: Final = _histogram(
    "pipeline_hop_latency_seconds",
    _NET,
    "Seconds of a round trip to a worker's node, through its tunnel.",
    *_MODEL,
    "target_node",
)

# Inference
REQUESTS: Final = _counter(
    "inference_requests_total", "Requests that ended, by status.", *_MODEL, "status", status=_STATUS
)
LATENCY: Final = _histogram(
    "inference_latency_seconds",
    _E2E,
    "Seconds from a request's admission to its end, every end.",
    *_MODEL,
    "status",
    status=_STATUS,
)
TOKENS_GENERATED: Final = _counter(
    "inference_tokens_generated", "Tokens generated, counted as they are made.", *_MODEL
)
FIRST_TOKEN: Final = _histogram(
    "inference_time_to_first_token_seconds",
    _FIRST_TOKEN,
    "Seconds from a request's admission to its first token.",
    *_MODEL,
)
PER_TOKEN: Final = _histogram(
    "inference_time_per_output_token_seconds",
    _PER_TOKEN,
    "Seconds per token after the first: (duration - first token) / (tokens - 1).",
    *_MODEL,
)
INTER_TOKEN: Final = _histogram(
    "inference_inter_token_seconds",
    _GAP,
    "Seconds between two tokens of an answer, as they left the engine.",
    *_MODEL,
)
QUEUE: Final = _histogram(
    "inference_queue_seconds", _PHASE, "Seconds that a request waited for the engine.", *_MODEL
)
PREFILL: Final = _histogram(
    "inference_prefill_seconds", _PHASE, "Seconds from the engine's start to first token.", *_MODEL
)
DECODE: Final = _histogram(
    "inference_decode_seconds", _PHASE, "Seconds from the first token to the end.", *_MODEL
)
REQUEST_PROMPT_TOKENS: Final = _histogram(
    "inference_request_prompt_tokens", _TOKENS, "Prompt tokens of a request.", *_MODEL
)
REQUEST_OUTPUT_TOKENS: Final = _histogram(
    "inference_request_output_tokens", _TOKENS, "Tokens generated for a request.", *_MODEL
)
PROMPT_TOKENS: Final = _counter("inference_prompt_tokens_total", "Prompt tokens.", *_MODEL)
PROMPT_TOKENS_CACHED: Final = _counter(
    "inference_prompt_tokens_cached_total",
    "Prompt tokens that the engine still held from the request before.",
    *_MODEL,
)
TOKENS_SPECULATED: Final = _counter(
    "inference_speculative_tokens_total",
    "Tokens that a draft proposed, and those of them that the model accepted.",
    *_MODEL,
    "result",
    result=("drafted", "accepted"),
)
TOKENS_DISCARDED: Final = _counter(
    "inference_tokens_discarded_total",
    "Tokens generated and then thrown away.",
    *_MODEL,
    "reason",
    reason=("cancelled", "timeout", "error"),
)
FINISHES: Final = _counter(
    "inference_finish_total",
    "Requests that the engine side ended, by finish reason.",
    *_MODEL,
    "reason",
    reason=get_args(FinishReason),
)
ERRORS: Final = _counter(
    "inference_errors_total",
    "Requests that ended with the status `error`, by reason.",
    *_MODEL,
    "reason",
    reason=get_args(ErrorReason),
)
OBJECTIVES: Final = _counter(
    "inference_slo_requests_total",
    "Requests judged by the service-level objectives, by objective and result.",
    *_MODEL,
    "slo",
    "result",
    slo=("first_token", "per_token", "latency", "all"),
    result=("good", "bad"),
)
RESUMED: Final = _counter(
    "inference_resumed_total",
    "Requests that went on here after their engine or their node was lost, by how it was.",
    *_MODEL,
    "reason",
    reason=get_args(ResumeReason),
)
FORWARDED: Final = _counter(
    "inference_forwarded_total",
    "Requests to this node that a peer began to answer: until their end, or until it was lost.",
    *_MODEL,
    "result",
    result=("ended", "lost"),
)
REQUESTS_IN_FLIGHT: Final = _gauge(
    "inference_requests_in_flight", "Requests admitted and not ended.", *_MODEL
)
QUEUE_DEPTH: Final = _gauge("inference_queue_depth", "Requests that wait for the engine.", *_MODEL)
SLOTS: Final = _gauge(
    "inference_slots",
    "Requests that the engine works on, and how many it can.",
    *_MODEL,
    "state",
    state=("busy", "total"),
)
RPC_REQUESTS: Final = _counter(
    "rpc_requests_total",
    "Calls over gRPC that ended, by method and status code.",
    *_NODE,
    "method",
    "code",
)
RPC_LATENCY: Final = _histogram(
    "rpc_latency_seconds",
    _CALL,
    "Seconds that a call over gRPC took.",
    *_NODE,
    "method",
    "code",
)
HTTP_REQUESTS: Final = _counter(
    "http_requests_total",
    "HTTP responses by route template and status; 499: the client left, 408: it did not read.",
    *_NODE,
    "route",
    "method",
    "status",
)
HTTP_DURATION: Final = _histogram(
    "http_request_duration_seconds",
    _CALL,
    "Seconds from an HTTP request to the end of its response.",
    *_NODE,
    "route",
    "method",
    "status",
)

# Models and engine
MODELS_LOADED: Final = _gauge("models_loaded", "Models loaded now.", *_NODE, derived=True)
MODEL_SIZE: Final = _gauge("model_size_bytes", "Bytes of a loaded model's weights.", *_MODEL)
LAYERS_ALLOCATED: Final = _gauge(
    "layers_allocated", "Layers of a model that are on this node.", *_MODEL
)
LAYERS_UNSERVED: Final = _gauge(
    "layers_unserved",
    "Layers of a model, loaded or not, that no living node has memory for.",
    *_MODEL,
)
MODEL_INFO: Final = _gauge(
    "model_info",
    "What a model is and what runs it; always 1.",
    *_MODEL,
    "architecture",
    "quantization",
    "engine",
    "build",
)
MODEL_LOAD_DURATION: Final = _histogram(
    "model_load_duration_seconds", _LOAD, "Seconds that loading took.", *_MODEL
)
MODEL_LOAD_PROGRESS: Final = _gauge(
    "model_load_progress_ratio",
    "How much of a model is downloaded, or read into memory, from 0 to 1.",
    *_MODEL,
    "stage",
    stage=get_args(LoadStage),
)
MODEL_LOADS: Final = _counter(
    "model_loads_total",
    "Loads by result.",
    *_MODEL,
    "result",
    result=get_args(LoadResult),
)
MODEL_UNLOADS: Final = _counter(
    "model_unloads_total",
    "Models that left memory, by reason.",
    *_MODEL,
    "reason",
    reason=get_args(UnloadReason),
)
ENGINE_SEQUENCES: Final = _histogram(
    "engine_sequences",
    _SEQUENCES,
    "Sequences that a working engine decodes together, sampled once a second.",
    *_MODEL,
)
ENGINE_CONTEXT: Final = _gauge(
    "engine_context_tokens",
    "Context tokens in all slots: of requests in work, held in all, and how many fit.",
    *_MODEL,
    "state",
    state=("used", "held", "capacity"),
)
ENGINE_CONTEXT_USAGE: Final = _gauge(
    "engine_context_usage_ratio",
    "Share of the context tokens of all slots that requests in work use, 0 to 1.",
    *_MODEL,
)
ENGINE_MEMORY: Final = _gauge(
    "engine_memory_bytes",
    "Bytes of a model by device, as its engine reports them.",
    *_MODEL,
    "device",
)
ENGINE_PROGRESS: Final = _gauge(
    "engine_last_progress_timestamp_seconds",
    "Unix time of the last prompt chunk or token, in seconds.",
    *_MODEL,
)
ENGINE_SILENCE: Final = _gauge(
    "engine_silent_seconds",
    "Seconds that the work in hand has been without progress; 0 while there is none.",
    *_MODEL,
)
ENGINE_RESTARTS: Final = _counter(
    "engine_restarts_total",
    "Engine children that had to be replaced, by reason.",
    *_MODEL,
    "reason",
    reason=get_args(RestartReason),
)

# System
MEMORY: Final = _gauge(
    "system_memory_usage_bytes",
    "Memory: resident of node and engine, of the host available, total and swapped out.",
    *_NODE,
    "memory_type",
    memory_type=("rss", "engine_rss", "available", "total", "swap"),
)
CPU: Final = _gauge(
    "system_cpu_usage_percent",
    "CPU use in percent: of one core for node and engine, of all cores for the host.",
    *_NODE,
    "scope",
    scope=("node", "engine", "host"),
)
TASKS: Final = _gauge("system_goroutines", "Living Trio tasks of the node.", *_NODE)
CPU_SECONDS: Final = _counter(
    "system_cpu_seconds_total", "CPU seconds used.", *_NODE, "scope", total=True, scope=_SCOPES
)
MAJOR_FAULTS: Final = _counter(
    "system_major_page_faults_total",
    "Page faults that had to read from disk.",
    *_NODE,
    "scope",
    total=True,
    scope=_SCOPES,
)
LOOP_LAG: Final = _histogram(
    "runtime_event_loop_lag_seconds", _LAG, "Lateness of the node's event loop.", *_NODE
)
WORKER_THREADS: Final = _gauge(
    "runtime_worker_threads",
    "Worker threads of the node in use, and how many there can be.",
    *_NODE,
    "state",
    state=("busy", "total"),
)

DESCRIPTORS: Final = _gauge(
    "system_file_descriptors",
    "File descriptors of the node's process: open, and how many it may open.",
    *_NODE,
    "state",
    state=("open", "limit"),
)
CERTIFICATE_EXPIRY: Final = _gauge(
    "tls_certificate_expiry_timestamp_seconds",
    "Unix time at which the certificate in use expires, in seconds.",
    *_NODE,
    "use",
    use=get_args(CertificateUse),
)

# Health
HEALTH_CHECKS: Final = _counter(
    "health_check_total",
    "Health checks run, by check and status.",
    "check",
    "status",
    check=CHECKS,
    status=("ok", "failed"),
)
HEALTH_CHECK_LATENCY: Final = _histogram(
    "health_check_latency_seconds",
    _CHECK,
    "Seconds that a health check took.",
    "check",
    check=CHECKS,
)

# The exporter and the telemetry itself
EVENTS: Final = _counter(
    "exporter_events_total", "Events applied, by kind of event.", *_NODE, "event"
)
EMITTED: Final = _counter(
    "telemetry_events_emitted_total",
    "Events that the node emitted, the dropped ones included.",
    *_NODE,
    total=True,
)
DROPPED: Final = _counter(
    "telemetry_events_dropped_total",
    "Events that the node dropped, by reason.",
    *_NODE,
    "reason",
    total=True,
    reason=DROPS,
)
LOST: Final = _gauge(
    "telemetry_events_lost", "Events emitted, not dropped and not applied.", *_NODE, derived=True
)
BATCHES: Final = _counter("exporter_batches_total", "Batches taken.", *_NODE)
DUPLICATES: Final = _counter(
    "exporter_duplicate_events_total", "Events that came again and were skipped.", *_NODE
)
REJECTED: Final = _counter(
    "exporter_rejected_batches_total",
    "Batches that were not taken, by reason.",
    "reason",
    reason=REJECTIONS,
)
LAST_EVENT: Final = _gauge(
    "exporter_last_event_timestamp_seconds",
    "Unix time when the node was last heard, in seconds.",
    *_NODE,
    derived=True,
)
EVENT_LAG: Final = _gauge(
    "exporter_event_lag_seconds",
    "Seconds that the oldest event of the last batch had waited in the node.",
    *_NODE,
    derived=True,
)
DURABLE: Final = _gauge(
    "exporter_durable",
    "1 while a restart of the exporter loses nothing, 0 while the journal cannot be written.",
    derived=True,
)
JOURNAL_BYTES: Final = _gauge(
    "exporter_journal_bytes", "Bytes of the journal's current log.", derived=True
)
STATE_DISK: Final = _gauge(
    "exporter_state_disk_bytes",
    "Bytes of the disk that holds the state directory: free for this process, and in total.",
    "state",
    derived=True,
    state=("free", "total"),
)
RECOVERED_EVENTS: Final = _counter(
    "exporter_recovered_events_total", "Events read back from the journal at a start."
)
QUARANTINED: Final = _counter(
    "exporter_quarantined_total",
    "Damaged or dangerous pieces of the journal that were kept aside.",
    "kind",
    kind=("tail", "log", "snapshot", "poison"),
)
SERIES: Final = _gauge(
    "exporter_series", "Series held, by metric that can grow.", "metric", derived=True
)
FOLDED: Final = _counter(
    "exporter_series_folded_total",
    "Samples whose label value went into `other`, by metric and label.",
    "metric",
    "label",
)
SCRAPE_DURATION: Final = _histogram(
    "exporter_scrape_duration_seconds", _CHECK, "Seconds that rendering a scrape took."
)
COLLECTOR_ERRORS: Final = _counter(
    "exporter_collector_errors_total",
    "Scrapes that lack another collector's metrics because it raised or took too long.",
    "collector",
)
EXPORTER_INTERNAL_ERRORS: Final = _counter(
    "exporter_internal_errors_total",
    "Unexpected errors in a part of the exporter, which went on.",
    "part",
    part=PARTS,
)
LOG_LINES: Final = _counter("exporter_request_log_lines_total", "Lines written to the request log.")
LOG_DROPPED: Final = _counter(
    "exporter_request_log_dropped_total",
    "Lines left out of the request log: the queue was full, or they could not be written.",
    "reason",
    reason=("queue_full", "failed"),
)
SPANS: Final = _counter("exporter_spans_total", "Spans that the collector took.")
SPANS_DROPPED: Final = _counter(
    "exporter_spans_dropped_total",
    "Spans dropped: the queue was full, or the collector did not take them.",
    "reason",
    reason=("queue_full", "failed"),
)
WEB_CONFIG_VALID: Final = _gauge(
    "exporter_web_config_valid",
    "1 while `--web-config-file` is in use as it is now, 0 while an earlier version of it is.",
    derived=True,
)
OWN_CERTIFICATE_EXPIRY: Final = _gauge(
    "exporter_tls_certificate_expiry_timestamp_seconds",
    "Unix time at which the certificate of `--web-config-file` expires, in seconds.",
    derived=True,
)
BUILD_INFO: Final = _gauge(
    "exporter_build_info",
    "Versions that the exporter runs; always 1.",
    "version",
    "python",
    derived=True,
)

FAMILIES: Final[tuple[Family, ...]] = tuple(
    value for value in list(globals().values()) if isinstance(value, Family)
)
