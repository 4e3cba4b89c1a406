"""Builds events of every kind and batches, and reads single values of a scrape."""

from collections.abc import Iterable

import msgspec

from exporter.metrics.catalogue.family import Family
from exporter.metrics.cut import take_cut
from exporter.metrics.histogram import Histogram
from exporter.metrics.state import State
from shared import wire
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
    ResumeReason,
    TokensGenerated,
)
from shared.events.system import EventLoopLagged, SystemSampled
from shared.events.trace import TraceContext

_encoder = msgspec.msgpack.Encoder()
TRACE = TraceContext(
    "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7", sampled=True
)


def every_event(model_id: str = "m") -> list[Event]:
    """Return one valid event of each kind, with no number 0."""
    return [
        NodeStarted(1.5e9, "0.1.0", "3.11.7", "ctransformers", "http://127.0.0.1:8080"),
        NodeStateChanged("online"),
        ResourcesSampled(2.0, 2**30, 12, 8),
        SystemSampled(
            9.5,
            2**20,
            2**21,
            2**29,
            2**30,
            4096,
            1.5,
            99.5,
            50.0,
            0.5,
            7.5,
            3,
            4,
            11,
            1,
            40,
            25,
            1024,
        ),
        EventLoopLagged(0.002),
        ModelLoaded(model_id, 1.25),
        ModelLoadFailed(model_id, 0.5),
        ModelDescribed(
            model_id, "llama", "Q8_0", "ctransformers", 2**24, 8, "b7", (("CPU", 2**20),)
        ),
        EngineSampled(model_id, 3, 100, 150, 4096),
        TokensSpeculated(model_id, 9, 6),
        EngineRestarted(model_id, "crashed"),
        LoadChanged(model_id, 2, 1, 1, 1),
        EngineProgressed(model_id, 1.5e9),
        TokensGenerated(model_id, 1, (7.0, 7.25)),
        finished(model_id),
        HttpFinished("/v1/completions", "POST", 200, 0.75),
        RpcFinished("distributed_llm.v1.Inference/Generate", "ok", 0.75),
        InferenceResumed(model_id, "crashed"),
        ModelLoadProgressed(model_id, "read", 3, 4),
        PeerChanged("n2", "alive", "busy"),
        PeersCounted(2, 1),
        PeerAnswered("n2", "survey", 0.002),
        MessagesMoved("sent", "survey", 3, 600),
        NetworkFailed("unauthenticated", 2),
        LayersPlanned(model_id, 8, 3),
        InternalError("sampler"),
        CertificateRead("api", 1.9e9),
        forwarded(model_id),
        WorkersLent(2),
        WorkerRefused("memory"),
        WorkerEnded("released"),
        PeerPage("n2", "http://192.0.2.2:9090"),
        PipelineChanged(model_id, 3, 2),
        PipelineMoved(model_id, "n2", 4096, 2048, (0.002, 0.003)),
        PipelineRebuilt(model_id, "cut"),
        StageHeld("split", 5),
        PeerForgotten("n3"),
        ModelUnloaded(model_id, "requested"),
    ]


def resumptions(happened: Iterable[Event]) -> list[ResumeReason]:
    """Return why requests were resumed, in order."""
    return [event.reason for event in happened if isinstance(event, InferenceResumed)]


def forwarded(model_id: str = "m") -> RequestForwarded:
    """Return the end of a request that a peer answered."""
    return RequestForwarded(
        model_id=model_id,
        peer="n2",
        status="ok",
        finish_reason="stop",
        seconds=2.0,
        queue_seconds=0.25,
        peer_seconds=1.75,
        prompt_tokens=5,
        cached_tokens=2,
        generated_tokens=6,
        ended_at=1.5e9,
        request_id="r1",
        trace=TRACE,
        span_id="eee19b7ec3c1b175",
        route="/v1/completions",
        client="key:2fd4e1c67a2d",
        operation="text_completion",
        reason=None,
        code="",
    )


def finished(model_id: str = "m") -> InferenceFinished:
    """Return the end of a successful request."""
    return InferenceFinished(
        model_id=model_id,
        status="ok",
        finish_reason="stop",
        seconds=2.0,
        queue_seconds=0.25,
        prefill_seconds=0.5,
        decode_seconds=1.25,
        first_token_seconds=0.75,
        prompt_tokens=5,
        cached_tokens=2,
        generated_tokens=6,
        discarded_tokens=0,
    )


def pack_batch(  # noqa: PLR0913 - a batch has as many fields
    *happened: Event | msgspec.Raw,
    first: int = 1,
    session: str = "s1",
    node_id: str = "n1",
    emitted: int | None = None,
    dropped: dict[str, int] | None = None,
    age: float = 0.0,
    goodbye: bool = False,
    protocol: int = wire.PROTOCOL,
) -> bytes:
    """Return the bytes of a batch; the defaults are those of a session without losses."""
    dropped = dropped or {}
    through = first - 1 + len(happened) + sum(dropped.values())
    packed = b"".join(map(_encoder.encode, happened))
    batch = wire.Batch(
        protocol=protocol,
        node_id=node_id,
        session=session,
        first_sequence=first,
        emitted=through if emitted is None else emitted,
        dropped=dropped,
        age_seconds=age,
        goodbye=goodbye,
        events=msgspec.Raw(wire.pack_events(len(happened), packed)),
    )
    return _encoder.encode(batch)


def number(state: State, family: Family, *labels: str) -> float | None:
    """Return the scraped value of a counter or gauge; None if the series does not exist."""
    return take_cut(state).numbers[family].get(labels)


def histogram(state: State, family: Family, *labels: str) -> Histogram:
    """Return the scraped value of a histogram."""
    return take_cut(state).histograms[family][labels]
