"""Spans: made of events, sampled, sent over OTLP, and never in the ingest's way."""

import logging
import math
import threading
import time
from collections.abc import Sequence

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from trio.testing import MockClock, trio_test

from exporter.ingest.batches import Counted
from exporter.metrics.catalogue.exporter import SPANS, SPANS_DROPPED
from exporter.metrics.catalogue.family import Family
from exporter.traces.otlp import OtlpCollector
from exporter.traces.sampling import is_recorded
from exporter.traces.sender import SpanSender
from exporter.traces.spans import TRACED, Span, spans_of
from shared.events.event import Event
from shared.events.requests import InferenceResumed
from shared.events.trace import TraceContext
from tests.builders import TRACE, every_event, finished, forwarded
from tests.collector import collecting

ENDED = msgspec.structs.replace(
    finished(), request_id="r1", trace=TRACE, route="/v1/completions", ended_at=1000.0
)


def spans(event: Event) -> dict[str, Span]:
    """Return an event's spans by name."""
    return {span.name: span for span in spans_of(event, Counted("n1", [event], 2000.0))}


def times(span: Span) -> tuple[float, float]:
    return span.start, span.end


def test_request_has_a_span_for_each_phase() -> None:
    """The phases follow each other, below the request, which is below its caller."""
    found = spans(ENDED)
    request = found["text_completion m"]
    assert times(request) == (998.0, 1000.0)
    assert (request.trace_id, request.span_id) == (TRACE.trace_id, TRACE.span_id)
    assert (request.parent_id, request.kind) == (TRACE.parent_id, "server")
    assert times(found["queue"]) == (998.0, 998.25)
    assert times(found["prefill"]) == (998.25, 998.75)
    assert times(found["decode"]) == (998.75, 1000.0)
    parts = [found[name] for name in ("queue", "prefill", "decode")]
    assert {span.parent_id for span in parts} == {TRACE.span_id}
    assert len({span.span_id for span in found.values()}) == 4
    assert request.attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "distributed_llm",
        "gen_ai.request.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.output_tokens": 6,
        "distributed_llm.request_id": "r1",
        "distributed_llm.status": "ok",
        "http.route": "/v1/completions",
    }


def test_wait_on_another_node_is_not_in_this_nodes_spans() -> None:
    """A forwarded request begins here when it arrives, although it has waited before."""
    found = spans(msgspec.structs.replace(ENDED, local_seconds=1.8))
    assert times(found["text_completion m"]) == (998.2, 1000.0)
    assert times(found["queue"]) == (998.2, 998.25)


def test_request_that_lost_its_peer_includes_that_time() -> None:
    """A request that this node continued has been here since it came."""
    found = spans(msgspec.structs.replace(ENDED, local_seconds=9.0, resumed=1))
    assert times(found["text_completion m"]) == (991.0, 1000.0)
    assert times(found["queue"]) == (998.0, 998.25)
    assert found["text_completion m"].attributes["distributed_llm.resumed"] == 1


@pytest.mark.parametrize(
    ("status", "failed", "error"),
    [
        ("error", True, "engine_failed"),
        ("timeout", True, "engine_failed"),
        ("rejected", False, "engine_failed"),
        ("cancelled", False, None),
    ],
)
def test_only_a_failure_of_the_service_is_an_error(
    status: str, error: str | None, *, failed: bool
) -> None:
    """A rejected or cancelled request is not the service's failure."""
    code = "engine_failed" if error else ""
    ended = msgspec.structs.replace(ENDED, status=status, code=code)
    request = spans(ended)["text_completion m"]
    assert request.failed is failed
    assert request.attributes.get("error.type") == error


def test_request_that_never_waited_has_one_span() -> None:
    """A request that was rejected at once has no phases."""
    rejected = msgspec.structs.replace(
        ENDED,
        status="rejected",
        finish_reason=None,
        first_token_seconds=None,
        prefill_seconds=0.0,
    )
    assert list(spans(rejected)) == ["text_completion m"]


def test_forward_is_between_the_request_and_the_peer() -> None:
    """The forward's span is the parent that the peer was told."""
    found = spans(msgspec.structs.replace(forwarded(), ended_at=1000.0))
    forward, request = found["forward"], found["text_completion m"]
    assert (forward.span_id, forward.parent_id) == (forwarded().span_id, TRACE.span_id)
    assert (forward.kind, times(forward)) == ("client", (998.25, 1000.0))
    assert (request.span_id, times(request)) == (TRACE.span_id, (998.0, 1000.0))
    assert times(found["queue"]) == (998.0, 998.25)
    assert forward.attributes["distributed_llm.peer"] == "n2"


def test_lost_peer_is_a_failed_forward() -> None:
    """The request goes on, so that its own span comes later."""
    lost = msgspec.structs.replace(forwarded(), status=None, finish_reason=None, reason="peer")
    found = spans(lost)
    assert set(found) == {"queue", "forward"}
    assert found["forward"].failed
    assert found["forward"].attributes["error.type"] == "peer"


def test_resumption_has_a_span() -> None:
    """It lasts from the loss of the engine until another one has the request."""
    resumed = InferenceResumed("m", "crashed", "r1", TRACE, 1000.0, 0.5)
    (span,) = spans(resumed).values()
    assert (span.name, times(span), span.parent_id) == ("resume", (999.5, 1000.0), TRACE.span_id)
    assert span.attributes == {"distributed_llm.reason": "crashed"}


def test_event_without_a_trace_has_no_span() -> None:
    """An older node and every other event give no spans."""
    for event in every_event():
        has_trace = isinstance(event, TRACED) and event.trace is not None
        assert bool(spans(event)) is has_trace


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_ratio_is_that_of_opentelemetry(trace_id: int, ratio: float) -> None:
    """A trace is recorded if OpenTelemetry's sampler would record it."""
    trace = TraceContext(f"{trace_id:032x}", TRACE.span_id)
    decision = TraceIdRatioBased(ratio).should_sample(None, trace_id, "").decision
    assert is_recorded(trace, ratio) is (decision is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize("sampled", [True, False])
def test_caller_decides_whether_its_trace_is_recorded(*, sampled: bool) -> None:
    """The ratio is for traces that a node began."""
    trace = TraceContext(TRACE.trace_id, TRACE.span_id, TRACE.parent_id, sampled)
    assert is_recorded(trace, 1.0 - sampled) is sampled


@pytest.mark.parametrize(
    "trace",
    [
        None,
        TraceContext("", ""),
        TraceContext("x" * 32, TRACE.span_id, sampled=True),
        TraceContext(TRACE.trace_id, "0" * 16, sampled=True),
        TraceContext(TRACE.trace_id, TRACE.span_id, "x", sampled=True),
    ],
)
def test_damaged_trace_is_not_recorded(trace: TraceContext | None) -> None:
    """Ids that are none give no spans."""
    assert not is_recorded(trace, 1.0)


class Notes:
    """Counts by family and labels."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], float] = {}

    def __call__(self, family: Family, labels: tuple[str, ...], value: float) -> None:
        """Count."""
        key = (family.name, *labels)
        self.counts[key] = self.counts.get(key, 0) + value


class MemoryCollector:
    """Keeps spans, or fails."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.fault = ""

    def send(self, spans: Sequence[Span]) -> str:
        """Keep them."""
        if not self.fault:
            self.spans += spans
        return self.fault


def counted(*happened: Event | None) -> Counted:
    return Counted("n1", happened, 2000.0)


@trio_test
async def test_last_spans_are_sent_at_the_end() -> None:
    """What was taken before the exporter stops is sent; damaged events and others are not."""
    collector, notes = MemoryCollector(), Notes()
    sender = SpanSender(collector, 1.0, notes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        damaged = msgspec.structs.replace(ENDED, seconds=math.nan)
        sender.take(counted(None, *every_event(), ENDED, damaged))
        nursery.cancel_scope.cancel()
    names = [span.name for span in collector.spans]
    assert sorted(names) == [
        "decode",
        "decode",
        "forward",
        "prefill",
        "prefill",
        "queue",
        "queue",
        "text_completion m",
        "text_completion m",
    ]
    assert notes.counts == {(SPANS.name,): len(names)}


@trio_test
async def test_failure_is_counted_and_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans that a collector does not take are counted; the log says so once, and when it does."""
    del autojump_clock
    collector, notes = MemoryCollector(), Notes()
    collector.fault = "it is down"
    sender = SpanSender(collector, 1.0, notes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                sender.take(counted(ENDED))
                await _sent(notes, SPANS_DROPPED, "failed")
        assert notes.counts == {(SPANS_DROPPED.name, "failed"): 12}
        assert [record.getMessage() for record in caplog.records] == [
            "it is down: spans are dropped"
        ]
        collector.fault = ""
        sender.take(counted(ENDED))
        await _sent(notes, SPANS)
        assert len(collector.spans) == 4
        nursery.cancel_scope.cancel()


async def _sent(notes: Notes, family: Family, *labels: str) -> None:
    # In real time: a clock that jumps does not wait for the thread that sends.
    end = time.monotonic() + 60
    before = notes.counts.get((family.name, *labels), 0)
    while notes.counts.get((family.name, *labels), 0) == before:
        assert time.monotonic() < end
        await trio.to_thread.run_sync(time.sleep, 0.01)


@trio_test
async def test_collector_that_hangs_is_in_nobodys_way() -> None:
    """While a send hangs, taking never waits, memory is bounded, and the end is not delayed."""
    release, called = threading.Event(), threading.Event()

    class Hanging:
        def send(self, spans: Sequence[Span]) -> str:
            del spans
            called.set()
            release.wait()
            return ""

    notes = Notes()
    sender = SpanSender(Hanging(), 1.0, notes, queue_spans=100)
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.run)
                sender.take(counted(ENDED))
                await trio.to_thread.run_sync(called.wait)
                sender.take(counted(*[ENDED] * 100))
                assert notes.counts == {(SPANS_DROPPED.name, "queue_full"): 300}
                nursery.cancel_scope.cancel()
    finally:
        release.set()


def test_spans_arrive_as_opentelemetry_writes_them() -> None:
    """A collector reads names, ids, times, kinds and attributes with its own messages."""
    with collecting() as collector:
        assert not OtlpCollector(f"{collector.url}/").send([*spans(ENDED).values()])
        assert collector.paths == ["/v1/traces"]
        arrived = {span.name: span for _, span in collector.spans}
        assert {node for node, _ in collector.spans} == {"n1"}
        request = arrived["text_completion m"]
        assert request.trace_id.hex() == TRACE.trace_id
        assert request.span_id.hex() == TRACE.span_id
        assert request.parent_span_id.hex() == TRACE.parent_id
        assert request.kind == request.SPAN_KIND_SERVER
        assert request.start_time_unix_nano == 998 * 10**9
        assert request.end_time_unix_nano == 1000 * 10**9
        told = {each.key: each.value for each in request.attributes}
        assert told["gen_ai.usage.output_tokens"].int_value == 6
        reasons = told["gen_ai.response.finish_reasons"].array_value.values
        assert [reason.string_value for reason in reasons] == ["stop"]
        assert arrived["decode"].parent_span_id == request.span_id
        assert request.status.code == request.status.STATUS_CODE_UNSET


def test_refusal_of_a_collector_is_told() -> None:
    """Why a collector takes no spans is one text, with its address."""
    with collecting() as collector:
        collector.status = 400
        fault = OtlpCollector(collector.url).send([*spans(ENDED).values()])
        assert collector.url in fault
        assert "400" in fault
