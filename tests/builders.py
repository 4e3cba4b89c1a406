"""Builds events of every kind and batches, and reads single values of a scrape."""

from collections.abc import Iterable

import msgspec

from exporter.metrics.catalogue import Family
from exporter.metrics.cut import take_cut
from exporter.metrics.histogram import Histogram
from exporter.metrics.state import State
from shared import events, wire
from shared.events import Event

_encoder = msgspec.msgpack.Encoder()
TRACE = events.TraceContext(
    "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7", sampled=True
)


def every_event(model_id: str = "m") -> list[Event]:
    """Return one valid event of each kind, with no number 0."""
    return [
        events.NodeStarted(1.5e9, "0.1.0", "3.11.7", "ctransformers", "http://127.0.0.1:8080"),
        events.NodeStateChanged("online"),
        events.ResourcesSampled(2.0, 2**30, 12, 8),
        events.SystemSampled(
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
        events.EventLoopLagged(0.002),
        events.ModelLoaded(model_id, 1.25),
        events.ModelLoadFailed(model_id, 0.5),
        events.ModelDescribed(
            model_id, "llama", "Q8_0", "ctransformers", 2**24, 8, "b7", (("CPU", 2**20),)
        ),
        events.EngineSampled(model_id, 3, 100, 150, 4096),
        events.TokensSpeculated(model_id, 9, 6),
        events.EngineRestarted(model_id, "crashed"),
        events.LoadChanged(model_id, 2, 1, 1, 1),
        events.EngineProgressed(model_id, 1.5e9),
        events.TokensGenerated(model_id, 1, (7.0, 7.25)),
        finished(model_id),
        events.HttpFinished("/v1/completions", "POST", 200, 0.75),
        events.RpcFinished("distributed_llm.v1.Inference/Generate", "ok", 0.75),
        events.InferenceResumed(model_id, "crashed"),
        events.ModelLoadProgressed(model_id, "read", 3, 4),
        events.PeerChanged("n2", "alive", "busy"),
        events.PeersCounted(2, 1),
        events.PeerAnswered("n2", "survey", 0.002),
        events.MessagesMoved("sent", "survey", 3, 600),
        events.NetworkFailed("unauthenticated", 2),
        events.LayersPlanned(model_id, 8, 3),
        events.InternalError("sampler"),
        events.CertificateRead("api", 1.9e9),
        forwarded(model_id),
        events.WorkersLent(2),
        events.WorkerRefused("memory"),
        events.WorkerEnded("released"),
        events.PeerPage("n2", "http://192.0.2.2:9090"),
        events.PipelineChanged(model_id, 3, 2),
        events.PipelineMoved(model_id, "n2", 4096, 2048, (0.002, 0.003)),
        events.PipelineRebuilt(model_id, "cut"),
        events.StageHeld("split", 5),
        events.PeerForgotten("n3"),
        events.ModelUnloaded(model_id, "requested"),
    ]


def resumptions(happened: Iterable[Event]) -> list[events.ResumeReason]:
    """Return why requests were resumed, in order."""
    return [event.reason for event in happened if isinstance(event, events.InferenceResumed)]


def forwarded(model_id: str = "m") -> events.RequestForwarded:
    """Return the end of a request that a peer answered."""
    return events.RequestForwarded(
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


def finished(model_id: str = "m") -> events.InferenceFinished:
    """Return the end of a successful request."""
    return events.InferenceFinished(
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
