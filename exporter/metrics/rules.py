"""What each event means in metrics: plain functions from an event to the samples that it moves.

A sample is a family, its label values and a number, which a counter adds, a gauge takes on and a
histogram observes. Observations are a list of numbers for one histogram.
"""

from collections.abc import Callable
from operator import sub
from typing import Any, Final

from exporter.metrics.catalogue.api import HTTP_DURATION, HTTP_REQUESTS, RPC_LATENCY, RPC_REQUESTS
from exporter.metrics.catalogue.engine import (
    ENGINE_CONTEXT,
    ENGINE_CONTEXT_USAGE,
    ENGINE_MEMORY,
    ENGINE_PROGRESS,
    ENGINE_RESTARTS,
    ENGINE_SEQUENCES,
    ENGINE_SILENCE,
)
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.mesh import (
    NETWORK_BYTES,
    NETWORK_CONNECTIONS,
    NETWORK_ERRORS,
    NETWORK_LATENCY,
    NETWORK_MESSAGES,
    PEER_STATUS,
)
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
from exporter.metrics.catalogue.node import (
    NODE_INFO,
    NODE_INTERNAL_ERRORS,
    NODE_RESOURCES,
    NODE_START_TIME,
    NODE_UPTIME,
    STATUS_CODES,
)
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
from exporter.metrics.catalogue.requests import (
    DECODE,
    ERRORS,
    FINISHES,
    FIRST_TOKEN,
    FORWARDED,
    INTER_TOKEN,
    LATENCY,
    PER_TOKEN,
    PREFILL,
    PROMPT_TOKENS,
    PROMPT_TOKENS_CACHED,
    QUEUE,
    QUEUE_DEPTH,
    REQUEST_OUTPUT_TOKENS,
    REQUEST_PROMPT_TOKENS,
    REQUESTS,
    REQUESTS_IN_FLIGHT,
    RESUMED,
    SLOTS,
    TOKENS_DISCARDED,
    TOKENS_GENERATED,
    TOKENS_SPECULATED,
)
from exporter.metrics.catalogue.system import (
    CERTIFICATE_EXPIRY,
    CPU,
    CPU_SECONDS,
    DESCRIPTORS,
    LOOP_LAG,
    MAJOR_FAULTS,
    MEMORY,
    TASKS,
    WORKER_THREADS,
)
from shared.events.api import HttpFinished, RpcFinished
from shared.events.engine import EngineProgressed, EngineRestarted, EngineSampled, TokensSpeculated
from shared.events.event import Event
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
    NodeState,
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

Sample = tuple[Family, tuple[str, ...], float]
Observations = tuple[Family, tuple[str, ...], list[float]]
Rule = Callable[[str, Any], tuple[Sample | Observations, ...]]


def _node_started(node: str, e: NodeStarted) -> tuple[Sample, ...]:
    return (
        (NODE_START_TIME, (node,), e.started_at),
        (NODE_INFO, (node, e.version, e.python, e.engine), 1),
    )


def _resources_sampled(node: str, e: ResourcesSampled) -> tuple[Sample, ...]:
    return (
        (NODE_RESOURCES, (node, "cpu_cores"), e.cpu_cores),
        (NODE_RESOURCES, (node, "memory_bytes"), e.memory_bytes),
        (NODE_RESOURCES, (node, "max_layers"), e.max_layers),
        (NODE_RESOURCES, (node, "used_layers"), e.used_layers),
    )


def _system_sampled(node: str, e: SystemSampled) -> tuple[Sample, ...]:
    return (
        (NODE_UPTIME, (node,), e.uptime_seconds),
        (MEMORY, (node, "rss"), e.rss_bytes),
        (MEMORY, (node, "engine_rss"), e.engine_rss_bytes),
        (MEMORY, (node, "available"), e.available_bytes),
        (MEMORY, (node, "total"), e.total_bytes),
        (MEMORY, (node, "swap"), e.swap_bytes),
        (CPU, (node, "node"), e.node_cpu_percent),
        (CPU, (node, "engine"), e.engine_cpu_percent),
        (CPU, (node, "host"), e.host_cpu_percent),
        (CPU_SECONDS, (node, "node"), e.node_cpu_seconds),
        (CPU_SECONDS, (node, "engine"), e.engine_cpu_seconds),
        (MAJOR_FAULTS, (node, "node"), e.node_major_faults),
        (MAJOR_FAULTS, (node, "engine"), e.engine_major_faults),
        (TASKS, (node,), e.tasks),
        (WORKER_THREADS, (node, "busy"), e.worker_threads_busy),
        (WORKER_THREADS, (node, "total"), e.worker_threads_total),
        (DESCRIPTORS, (node, "open"), e.open_descriptors),
        (DESCRIPTORS, (node, "limit"), e.descriptors_limit),
    )


def _event_loop_lagged(node: str, e: EventLoopLagged) -> tuple[Sample, ...]:
    return ((LOOP_LAG, (node,), e.seconds),)


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


def _engine_restarted(node: str, e: EngineRestarted) -> tuple[Sample, ...]:
    return ((ENGINE_RESTARTS, (node, e.model_id, e.reason), 1),)


def _load_changed(node: str, e: LoadChanged) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (REQUESTS_IN_FLIGHT, model, e.in_flight),
        (QUEUE_DEPTH, model, e.queued),
        (SLOTS, (*model, "busy"), e.slots_busy),
        (SLOTS, (*model, "total"), e.slots_total),
    )


def _engine_progressed(node: str, e: EngineProgressed) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    silence = (ENGINE_SILENCE, model, e.silent_seconds)
    return ((ENGINE_PROGRESS, model, e.at), silence) if e.at else (silence,)


def _engine_sampled(node: str, e: EngineSampled) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    decoding = ((ENGINE_SEQUENCES, model, e.decoding),) if e.decoding else ()
    context = (("used", e.context_used), ("held", e.context_held), ("capacity", e.context_capacity))
    known = [(ENGINE_CONTEXT, (*model, state), n) for state, n in context if n is not None]
    usage: tuple[Sample, ...] = ()
    if e.context_used is not None and e.context_capacity:
        usage = ((ENGINE_CONTEXT_USAGE, model, e.context_used / e.context_capacity),)
    return (*decoding, *known, *usage)


def _tokens_speculated(node: str, e: TokensSpeculated) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (TOKENS_SPECULATED, (*model, "drafted"), e.drafted),
        (TOKENS_SPECULATED, (*model, "accepted"), e.accepted),
    )


def _tokens_generated(node: str, e: TokensGenerated) -> tuple[Sample] | tuple[Sample, Observations]:
    model = (node, e.model_id)
    tokens = (TOKENS_GENERATED, model, e.count)
    gaps = list(map(sub, e.drawn_at[1:], e.drawn_at))
    return (tokens, (INTER_TOKEN, model, gaps)) if gaps else (tokens,)


def _inference_finished(node: str, e: InferenceFinished) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    samples: list[Sample] = [
        (REQUESTS, (*model, e.status), 1),
        (LATENCY, (*model, e.status), e.seconds),
    ]
    if e.status == "error":
        samples.append((ERRORS, (*model, e.reason or "other"), 1))
    if e.finish_reason is not None:
        samples += _work_done(model, e)
    if e.first_token_seconds is not None:
        samples.append((FIRST_TOKEN, model, e.first_token_seconds))
        if e.generated_tokens > 1:
            rest = max(0.0, e.seconds - e.first_token_seconds)
            samples.append((PER_TOKEN, model, rest / (e.generated_tokens - 1)))
    if e.discarded_tokens and e.status in ("cancelled", "timeout", "error"):
        samples.append((TOKENS_DISCARDED, (*model, e.status), e.discarded_tokens))
    return tuple(samples)


def _work_done(model: tuple[str, str], e: InferenceFinished) -> list[Sample]:
    """Account for an admitted request."""
    return [
        (FINISHES, (*model, str(e.finish_reason)), 1),
        (QUEUE, model, e.queue_seconds),
        (PREFILL, model, e.prefill_seconds),
        (DECODE, model, e.decode_seconds),
        (REQUEST_PROMPT_TOKENS, model, e.prompt_tokens),
        (REQUEST_OUTPUT_TOKENS, model, e.generated_tokens),
        (PROMPT_TOKENS, model, e.prompt_tokens),
        (PROMPT_TOKENS_CACHED, model, e.cached_tokens),
    ]


def _http_finished(node: str, e: HttpFinished) -> tuple[Sample, ...]:
    labels = (node, e.route, e.method, str(e.status))
    return ((HTTP_REQUESTS, labels, 1), (HTTP_DURATION, labels, e.seconds))


def _rpc_finished(node: str, e: RpcFinished) -> tuple[Sample, ...]:
    labels = (node, e.method, e.code)
    return ((RPC_REQUESTS, labels, 1), (RPC_LATENCY, labels, e.seconds))


def _inference_resumed(node: str, e: InferenceResumed) -> tuple[Sample, ...]:
    return ((RESUMED, (node, e.model_id, e.reason), 1),)


def _model_load_progressed(node: str, e: ModelLoadProgressed) -> tuple[Sample, ...]:
    ratio = min(1.0, e.done_bytes / e.total_bytes) if e.total_bytes > 0 else 0.0
    return ((MODEL_LOAD_PROGRESS, (node, e.model_id, e.stage), ratio),)


def _peer_changed(node: str, e: PeerChanged) -> tuple[Sample, ...]:
    status: NodeState = "offline" if e.state in ("dead", "left") else "unknown"
    if e.state == "alive":
        status = e.status
    return ((PEER_STATUS, (node, e.peer), STATUS_CODES[status]),)


def _peers_counted(node: str, e: PeersCounted) -> tuple[Sample, ...]:
    return (
        (NETWORK_CONNECTIONS, (node, "alive"), e.alive),
        (NETWORK_CONNECTIONS, (node, "suspect"), e.suspect),
    )


def _peer_answered(node: str, e: PeerAnswered) -> tuple[Sample, ...]:
    return ((NETWORK_LATENCY, (node, e.peer, e.operation), e.seconds),)


def _messages_moved(node: str, e: MessagesMoved) -> tuple[Sample, ...]:
    return (
        (NETWORK_MESSAGES, (node, e.direction, e.message_type), e.count),
        (NETWORK_BYTES, (node, e.direction), e.size_bytes),
    )


def _network_failed(node: str, e: NetworkFailed) -> tuple[Sample, ...]:
    return ((NETWORK_ERRORS, (node, e.reason), e.count),)


def _layers_planned(node: str, e: LayersPlanned) -> tuple[Sample, ...]:
    return ((LAYERS_UNSERVED, (node, e.model_id), e.unserved),)


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


def _internal_error(node: str, e: InternalError) -> tuple[Sample, ...]:
    return ((NODE_INTERNAL_ERRORS, (node, e.part), 1),)


def _certificate_read(node: str, e: CertificateRead) -> tuple[Sample, ...]:
    return ((CERTIFICATE_EXPIRY, (node, e.use), e.expires_at),)


def _request_forwarded(node: str, e: RequestForwarded) -> tuple[Sample, ...]:
    result = "lost" if e.status is None else "ended"
    return ((FORWARDED, (node, e.model_id, result), 1),)


def _nothing(node: str, event: Event) -> tuple[Sample, ...]:
    del node, event
    return ()


RULES: Final[dict[type[Event], Rule]] = {
    NodeStarted: _node_started,
    NodeStateChanged: _nothing,  # kept for `node_status`, computed at a scrape
    ResourcesSampled: _resources_sampled,
    SystemSampled: _system_sampled,
    EventLoopLagged: _event_loop_lagged,
    ModelLoaded: _model_loaded,
    ModelLoadFailed: _model_load_failed,
    ModelUnloaded: _model_unloaded,
    ModelDescribed: _model_described,
    EngineRestarted: _engine_restarted,
    LoadChanged: _load_changed,
    EngineProgressed: _engine_progressed,
    TokensGenerated: _tokens_generated,
    InferenceFinished: _inference_finished,
    HttpFinished: _http_finished,
    RpcFinished: _rpc_finished,
    InferenceResumed: _inference_resumed,
    ModelLoadProgressed: _model_load_progressed,
    PeerChanged: _peer_changed,
    PeerForgotten: _nothing,  # removes series
    PeersCounted: _peers_counted,
    PeerAnswered: _peer_answered,
    MessagesMoved: _messages_moved,
    NetworkFailed: _network_failed,
    LayersPlanned: _layers_planned,
    InternalError: _internal_error,
    CertificateRead: _certificate_read,
    EngineSampled: _engine_sampled,
    TokensSpeculated: _tokens_speculated,
    RequestForwarded: _request_forwarded,
    WorkersLent: _workers_lent,
    WorkerRefused: _worker_refused,
    WorkerEnded: _worker_ended,
    PipelineChanged: _pipeline_changed,
    PipelineMoved: _pipeline_moved,
    PipelineRebuilt: _pipeline_rebuilt,
    StageHeld: _stage_held,
    PeerPage: _nothing,  # kept for the status page
}
