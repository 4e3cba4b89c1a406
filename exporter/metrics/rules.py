"""What each event means in metrics: plain functions from an event to the samples that it moves.

A sample is a family, its label values and a number, which a counter adds, a gauge takes on and a
histogram observes. Observations are a list of numbers for one histogram.
"""

from collections.abc import Callable
from operator import sub
from typing import Any, Final

from exporter.metrics import catalogue as c
from exporter.metrics.catalogue import Family
from shared import events

Sample = tuple[Family, tuple[str, ...], float]
Observations = tuple[Family, tuple[str, ...], list[float]]
Rule = Callable[[str, Any], tuple[Sample | Observations, ...]]


def _node_started(node: str, e: events.NodeStarted) -> tuple[Sample, ...]:
    return (
        (c.NODE_START_TIME, (node,), e.started_at),
        (c.NODE_INFO, (node, e.version, e.python, e.engine), 1),
    )


def _resources_sampled(node: str, e: events.ResourcesSampled) -> tuple[Sample, ...]:
    return (
        (c.NODE_RESOURCES, (node, "cpu_cores"), e.cpu_cores),
        (c.NODE_RESOURCES, (node, "memory_bytes"), e.memory_bytes),
        (c.NODE_RESOURCES, (node, "max_layers"), e.max_layers),
        (c.NODE_RESOURCES, (node, "used_layers"), e.used_layers),
    )


def _system_sampled(node: str, e: events.SystemSampled) -> tuple[Sample, ...]:
    return (
        (c.NODE_UPTIME, (node,), e.uptime_seconds),
        (c.MEMORY, (node, "rss"), e.rss_bytes),
        (c.MEMORY, (node, "engine_rss"), e.engine_rss_bytes),
        (c.MEMORY, (node, "available"), e.available_bytes),
        (c.MEMORY, (node, "total"), e.total_bytes),
        (c.MEMORY, (node, "swap"), e.swap_bytes),
        (c.CPU, (node, "node"), e.node_cpu_percent),
        (c.CPU, (node, "engine"), e.engine_cpu_percent),
        (c.CPU, (node, "host"), e.host_cpu_percent),
        (c.CPU_SECONDS, (node, "node"), e.node_cpu_seconds),
        (c.CPU_SECONDS, (node, "engine"), e.engine_cpu_seconds),
        (c.MAJOR_FAULTS, (node, "node"), e.node_major_faults),
        (c.MAJOR_FAULTS, (node, "engine"), e.engine_major_faults),
        (c.TASKS, (node,), e.tasks),
        (c.WORKER_THREADS, (node, "busy"), e.worker_threads_busy),
        (c.WORKER_THREADS, (node, "total"), e.worker_threads_total),
        (c.DESCRIPTORS, (node, "open"), e.open_descriptors),
        (c.DESCRIPTORS, (node, "limit"), e.descriptors_limit),
    )


def _event_loop_lagged(node: str, e: events.EventLoopLagged) -> tuple[Sample, ...]:
    return ((c.LOOP_LAG, (node,), e.seconds),)


def _model_loaded(node: str, e: events.ModelLoaded) -> tuple[Sample, ...]:
    return (
        (c.MODEL_LOADS, (node, e.model_id, "ok"), 1),
        (c.MODEL_LOAD_DURATION, (node, e.model_id), e.seconds),
    )


def _model_load_failed(node: str, e: events.ModelLoadFailed) -> tuple[Sample, ...]:
    return (
        (c.MODEL_LOADS, (node, e.model_id, "error"), 1),
        (c.MODEL_LOAD_DURATION, (node, e.model_id), e.seconds),
    )


def _model_unloaded(node: str, e: events.ModelUnloaded) -> tuple[Sample, ...]:
    return ((c.MODEL_UNLOADS, (node, e.model_id, e.reason), 1),)


def _model_described(node: str, e: events.ModelDescribed) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    here = e.layers if e.layers_here is None else e.layers_here
    weights = ((c.MODEL_SIZE, model, e.size_bytes), (c.LAYERS_ALLOCATED, model, here))
    return (
        *(weights if e.layers else ()),  # those of an engine elsewhere are unknown
        (c.MODEL_INFO, (*model, e.architecture, e.quantization, e.engine, e.build), 1),
        *((c.ENGINE_MEMORY, (*model, device), size_bytes) for device, size_bytes in e.devices),
    )


def _engine_restarted(node: str, e: events.EngineRestarted) -> tuple[Sample, ...]:
    return ((c.ENGINE_RESTARTS, (node, e.model_id, e.reason), 1),)


def _load_changed(node: str, e: events.LoadChanged) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (c.REQUESTS_IN_FLIGHT, model, e.in_flight),
        (c.QUEUE_DEPTH, model, e.queued),
        (c.SLOTS, (*model, "busy"), e.slots_busy),
        (c.SLOTS, (*model, "total"), e.slots_total),
    )


def _engine_progressed(node: str, e: events.EngineProgressed) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    silence = (c.ENGINE_SILENCE, model, e.silent_seconds)
    return ((c.ENGINE_PROGRESS, model, e.at), silence) if e.at else (silence,)


def _engine_sampled(node: str, e: events.EngineSampled) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    decoding = ((c.ENGINE_SEQUENCES, model, e.decoding),) if e.decoding else ()
    context = (("used", e.context_used), ("held", e.context_held), ("capacity", e.context_capacity))
    known = [(c.ENGINE_CONTEXT, (*model, state), n) for state, n in context if n is not None]
    usage: tuple[Sample, ...] = ()
    if e.context_used is not None and e.context_capacity:
        usage = ((c.ENGINE_CONTEXT_USAGE, model, e.context_used / e.context_capacity),)
    return (*decoding, *known, *usage)


def _tokens_speculated(node: str, e: events.TokensSpeculated) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (c.TOKENS_SPECULATED, (*model, "drafted"), e.drafted),
        (c.TOKENS_SPECULATED, (*model, "accepted"), e.accepted),
    )


def _tokens_generated(
    node: str, e: events.TokensGenerated
) -> tuple[Sample] | tuple[Sample, Observations]:
    model = (node, e.model_id)
    tokens = (c.TOKENS_GENERATED, model, e.count)
    gaps = list(map(sub, e.drawn_at[1:], e.drawn_at))
    return (tokens, (c.INTER_TOKEN, model, gaps)) if gaps else (tokens,)


def _inference_finished(node: str, e: events.InferenceFinished) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    samples: list[Sample] = [
        (c.REQUESTS, (*model, e.status), 1),
        (c.LATENCY, (*model, e.status), e.seconds),
    ]
    if e.status == "error":
        samples.append((c.ERRORS, (*model, e.reason or "other"), 1))
    if e.finish_reason is not None:
        samples += _work_done(model, e)
    if e.first_token_seconds is not None:
        samples.append((c.FIRST_TOKEN, model, e.first_token_seconds))
        if e.generated_tokens > 1:
            rest = max(0.0, e.seconds - e.first_token_seconds)
            samples.append((c.PER_TOKEN, model, rest / (e.generated_tokens - 1)))
    if e.discarded_tokens and e.status in ("cancelled", "timeout", "error"):
        samples.append((c.TOKENS_DISCARDED, (*model, e.status), e.discarded_tokens))
    return tuple(samples)


def _work_done(model: tuple[str, str], e: events.InferenceFinished) -> list[Sample]:
    """Account for an admitted request."""
    return [
        (c.FINISHES, (*model, str(e.finish_reason)), 1),
        (c.QUEUE, model, e.queue_seconds),
        (c.PREFILL, model, e.prefill_seconds),
        (c.DECODE, model, e.decode_seconds),
        (c.REQUEST_PROMPT_TOKENS, model, e.prompt_tokens),
        (c.REQUEST_OUTPUT_TOKENS, model, e.generated_tokens),
        (c.PROMPT_TOKENS, model, e.prompt_tokens),
        (c.PROMPT_TOKENS_CACHED, model, e.cached_tokens),
    ]


def _http_finished(node: str, e: events.HttpFinished) -> tuple[Sample, ...]:
    labels = (node, e.route, e.method, str(e.status))
    return ((c.HTTP_REQUESTS, labels, 1), (c.HTTP_DURATION, labels, e.seconds))


def _rpc_finished(node: str, e: events.RpcFinished) -> tuple[Sample, ...]:
    labels = (node, e.method, e.code)
    return ((c.RPC_REQUESTS, labels, 1), (c.RPC_LATENCY, labels, e.seconds))


def _inference_resumed(node: str, e: events.InferenceResumed) -> tuple[Sample, ...]:
    return ((c.RESUMED, (node, e.model_id, e.reason), 1),)


def _model_load_progressed(node: str, e: events.ModelLoadProgressed) -> tuple[Sample, ...]:
    ratio = min(1.0, e.done_bytes / e.total_bytes) if e.total_bytes > 0 else 0.0
    return ((c.MODEL_LOAD_PROGRESS, (node, e.model_id, e.stage), ratio),)


def _peer_changed(node: str, e: events.PeerChanged) -> tuple[Sample, ...]:
    status: events.NodeState = "offline" if e.state in ("dead", "left") else "unknown"
    if e.state == "alive":
        status = e.status
    return ((c.PEER_STATUS, (node, e.peer), c.STATUS_CODES[status]),)


def _peers_counted(node: str, e: events.PeersCounted) -> tuple[Sample, ...]:
    return (
        (c.NETWORK_CONNECTIONS, (node, "alive"), e.alive),
        (c.NETWORK_CONNECTIONS, (node, "suspect"), e.suspect),
    )


def _peer_answered(node: str, e: events.PeerAnswered) -> tuple[Sample, ...]:
    return ((c.NETWORK_LATENCY, (node, e.peer, e.operation), e.seconds),)


def _messages_moved(node: str, e: events.MessagesMoved) -> tuple[Sample, ...]:
    return (
        (c.NETWORK_MESSAGES, (node, e.direction, e.message_type), e.count),
        (c.NETWORK_BYTES, (node, e.direction), e.size_bytes),
    )


def _network_failed(node: str, e: events.NetworkFailed) -> tuple[Sample, ...]:
    return ((c.NETWORK_ERRORS, (node, e.reason), e.count),)


def _layers_planned(node: str, e: events.LayersPlanned) -> tuple[Sample, ...]:
    return ((c.LAYERS_UNSERVED, (node, e.model_id), e.unserved),)


def _workers_lent(node: str, e: events.WorkersLent) -> tuple[Sample, ...]:
    return ((c.WORKER_LEASES, (node,), e.count),)


def _worker_refused(node: str, e: events.WorkerRefused) -> tuple[Sample, ...]:
    return ((c.WORKER_REFUSALS, (node, e.reason), 1),)


def _worker_ended(node: str, e: events.WorkerEnded) -> tuple[Sample, ...]:
    return ((c.WORKER_ENDS, (node, e.end), 1),)


def _pipeline_changed(node: str, e: events.PipelineChanged) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return ((c.PIPELINE_STAGES, model, e.stages), (c.PIPELINE_STAGES_UP, model, e.stages_up))


def _pipeline_moved(node: str, e: events.PipelineMoved) -> tuple[Sample, ...]:
    model = (node, e.model_id)
    return (
        (c.PIPELINE_BYTES, (*model, "sent"), e.sent_bytes),
        (c.PIPELINE_BYTES, (*model, "received"), e.received_bytes),
        *((c.PIPELINE_HOP, (*model, e.peer), seconds) for seconds in e.hop_seconds),
    )


def _pipeline_rebuilt(node: str, e: events.PipelineRebuilt) -> tuple[Sample, ...]:
    return ((c.PIPELINE_REBUILDS, (node, e.model_id, e.reason), 1),)


def _stage_held(node: str, e: events.StageHeld) -> tuple[Sample, ...]:
    return ((c.LAYERS_ALLOCATED, (node, e.model_id), e.layers),)


def _internal_error(node: str, e: events.InternalError) -> tuple[Sample, ...]:
    return ((c.NODE_INTERNAL_ERRORS, (node, e.part), 1),)


def _certificate_read(node: str, e: events.CertificateRead) -> tuple[Sample, ...]:
    return ((c.CERTIFICATE_EXPIRY, (node, e.use), e.expires_at),)


def _request_forwarded(node: str, e: events.RequestForwarded) -> tuple[Sample, ...]:
    result = "lost" if e.status is None else "ended"
    return ((c.FORWARDED, (node, e.model_id, result), 1),)


def _nothing(node: str, event: events.Event) -> tuple[Sample, ...]:
    del node, event
    return ()


RULES: Final[dict[type[events.Event], Rule]] = {
    events.NodeStarted: _node_started,
    events.NodeStateChanged: _nothing,  # kept for `node_status`, computed at a scrape
    events.ResourcesSampled: _resources_sampled,
    events.SystemSampled: _system_sampled,
    events.EventLoopLagged: _event_loop_lagged,
    events.ModelLoaded: _model_loaded,
    events.ModelLoadFailed: _model_load_failed,
    events.ModelUnloaded: _model_unloaded,
    events.ModelDescribed: _model_described,
    events.EngineRestarted: _engine_restarted,
    events.LoadChanged: _load_changed,
    events.EngineProgressed: _engine_progressed,
    events.TokensGenerated: _tokens_generated,
    events.InferenceFinished: _inference_finished,
    events.HttpFinished: _http_finished,
    events.RpcFinished: _rpc_finished,
    events.InferenceResumed: _inference_resumed,
    events.ModelLoadProgressed: _model_load_progressed,
    events.PeerChanged: _peer_changed,
    events.PeerForgotten: _nothing,  # removes series
    events.PeersCounted: _peers_counted,
    events.PeerAnswered: _peer_answered,
    events.MessagesMoved: _messages_moved,
    events.NetworkFailed: _network_failed,
    events.LayersPlanned: _layers_planned,
    events.InternalError: _internal_error,
    events.CertificateRead: _certificate_read,
    events.EngineSampled: _engine_sampled,
    events.TokensSpeculated: _tokens_speculated,
    events.RequestForwarded: _request_forwarded,
    events.WorkersLent: _workers_lent,
    events.WorkerRefused: _worker_refused,
    events.WorkerEnded: _worker_ended,
    events.PipelineChanged: _pipeline_changed,
    events.PipelineMoved: _pipeline_moved,
    events.PipelineRebuilt: _pipeline_rebuilt,
    events.StageHeld: _stage_held,
    events.PeerPage: _nothing,  # kept for the status page
}
