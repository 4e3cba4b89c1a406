"""The spans of a request, from its events: plain values, no OpenTelemetry.

Names and attributes follow OpenTelemetry's semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/). What they lack begins with
`distributed_llm.`.

A span ends at a time of the node's wall clock, and starts a duration of the node's monotonic clock
before. No clock of one process is subtracted from another's: the spans of two nodes are as far
apart as the nodes' wall clocks.
"""

import secrets
from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from exporter.ingest.batches import Counted
from shared.events.event import Event
from shared.events.requests import InferenceFinished, InferenceResumed, RequestForwarded
from shared.events.trace import TraceContext

Kind = Literal["server", "client", "internal"]
Attributes = Mapping[str, str | int | float | tuple[str, ...]]
PROVIDER: Final = "distributed_llm"
TRACED: Final = (InferenceFinished, RequestForwarded, InferenceResumed)
"""Events that have spans."""
_FAILURES: Final = ("error", "timeout")
"""A request that was rejected or cancelled is not a failure of this service."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One span that ended."""

    name: str
    kind: Kind
    node_id: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of its trace."""
    start: float
    end: float
    """Unix times in seconds, by the node's clock."""
    attributes: Attributes
    failed: bool = False


def spans_of(event: Event, counted: Counted) -> Iterator[Span]:
    """Yield the spans of an event with a valid place in a trace."""
    match event:
        case InferenceFinished(trace=TraceContext() as trace):
            yield from _answered(event, _Maker(counted.node_id, trace), counted.received_at)
        case RequestForwarded(trace=TraceContext() as trace):
            yield from _forwarded(event, _Maker(counted.node_id, trace), trace.trace_id)
        case InferenceResumed(trace=TraceContext() as trace):
            at = event.resumed_at
            reason = {"distributed_llm.reason": event.reason}
            yield _Maker(counted.node_id, trace).part("resume", at - event.lost_seconds, at, reason)


class _Maker:
    """Makes the spans of one request on one node."""

    def __init__(self, node_id: str, trace: TraceContext) -> None:
        self._node_id = node_id
        self._trace = trace

    def request(
        self,
        event: InferenceFinished | RequestForwarded,
        start: float,
        end: float,
        more: Attributes,
    ) -> Span:
        """Return the span of the request itself."""
        return Span(
            name=f"{event.operation} {event.model_id}",
            kind="server",
            node_id=self._node_id,
            trace_id=self._trace.trace_id,
            span_id=self._trace.span_id,
            parent_id=self._trace.parent_id,
            start=start,
            end=end,
            attributes={**_described(event), **more},
            failed=event.status in _FAILURES,
        )

    def part(
        self, name: str, start: float, end: float, attributes: Attributes | None = None
    ) -> Span:
        """Return the span of a part of the request."""
        return Span(
            name=name,
            kind="internal",
            node_id=self._node_id,
            trace_id=self._trace.trace_id,
            span_id=secrets.token_hex(8),
            parent_id=self._trace.span_id,
            start=start,
            end=end,
            attributes=attributes or {},
        )

    def forward(self, event: RequestForwarded, start: float) -> Span:
        """Return the span of a forward, under which the peer's spans are."""
        lost = event.status is None
        attributes = _described(event) | {"distributed_llm.peer": event.peer}
        if lost:
            attributes["error.type"] = event.reason or "peer"
        return Span(
            name="forward",
            kind="client",
            node_id=self._node_id,
            trace_id=self._trace.trace_id,
            span_id=event.span_id,
            parent_id=self._trace.span_id,
            start=start,
            end=event.ended_at,
            attributes=attributes,
            failed=lost or event.status in _FAILURES,
        )


def _answered(event: InferenceFinished, maker: _Maker, received_at: float) -> Iterator[Span]:
    end = event.ended_at or received_at
    start = end - (event.local_seconds or event.seconds)
    resumed = {"distributed_llm.resumed": event.resumed} if event.resumed else {}
    yield maker.request(event, start, end, resumed)
    decoding = end - event.decode_seconds
    prefilling = decoding - event.prefill_seconds
    if event.finish_reason is not None:
        # A forwarded request has also waited on the node that forwarded it, before it came here.
        yield maker.part("queue", max(start, prefilling - event.queue_seconds), prefilling)
    if event.prefill_seconds > 0:
        yield maker.part("prefill", prefilling, decoding)
    if event.first_token_seconds is not None:
        yield maker.part("decode", decoding, end)


def _forwarded(event: RequestForwarded, maker: _Maker, trace_id: str) -> Iterator[Span]:
    asked = event.ended_at - event.peer_seconds
    yield maker.part("queue", asked - event.queue_seconds, asked)
    if TraceContext(trace_id, event.span_id).is_valid:
        yield maker.forward(event, asked)
    if event.status is not None:
        yield maker.request(event, event.ended_at - event.seconds, event.ended_at, {})


def _described(
    event: InferenceFinished | RequestForwarded,
) -> dict[str, str | int | float | tuple[str, ...]]:
    described: dict[str, str | int | float | tuple[str, ...]] = {
        "gen_ai.operation.name": event.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": event.model_id,
        "gen_ai.usage.input_tokens": event.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": event.cached_tokens,
        "gen_ai.usage.output_tokens": event.generated_tokens,
        "distributed_llm.request_id": event.request_id,
    }
    if event.finish_reason is not None:
        described["gen_ai.response.finish_reasons"] = (event.finish_reason,)
    if event.route:
        described["http.route" if event.route.startswith("/") else "rpc.method"] = event.route
    if event.status is not None:
        described["distributed_llm.status"] = event.status
    if event.status not in ("ok", "cancelled", None):
        described["error.type"] = event.code or event.reason or event.status
    return described
