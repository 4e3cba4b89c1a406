"""Requests are judged by objectives, and are the exemplars of their buckets."""

import re
from typing import Any

import pytest

from exporter.metrics.catalogue.requests import FIRST_TOKEN, LATENCY, OBJECTIVES
from exporter.metrics.cut import take_cut
from exporter.metrics.nodes import Session
from exporter.metrics.objectives import Objectives
from exporter.metrics.state import State
from exporter.settings import ExporterSettings
from exporter.web.exposition import Wanted, render
from shared.events.requests import InferenceFinished
from shared.events.trace import TraceContext
from shared.settings.declaration import UsageError
from tests.builders import TRACE

GOOD: dict[str, Any] = {
    "model_id": "m",
    "status": "ok",
    "finish_reason": "stop",
    "seconds": 2.0,
    "queue_seconds": 0.0,
    "prefill_seconds": 1.0,
    "decode_seconds": 1.0,
    "first_token_seconds": 1.0,
    "prompt_tokens": 5,
    "cached_tokens": 0,
    "generated_tokens": 11,
    "discarded_tokens": 0,
}


def judged(**changes: Any) -> dict[str, str]:
    """Return the result of one request for each objective that applies."""
    samples = Objectives().samples("n", [InferenceFinished(**(GOOD | changes))])
    return {labels[2]: labels[3] for family, labels, _ in samples if family is OBJECTIVES}


def test_good_request_is_good_in_everything() -> None:
    """A request within all limits is good for each objective and for `all`."""
    everything = ("first_token", "per_token", "latency", "all")
    assert judged() == dict.fromkeys(everything, "good")


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"seconds": 31.0, "generated_tokens": 2000}, "latency"),
        ({"first_token_seconds": 2.6, "seconds": 3.0}, "first_token"),
        ({"seconds": 3.2}, "per_token"),
    ],
)
def test_one_limit_passed_is_bad_for_it_and_for_all(changes: dict[str, Any], bad: str) -> None:
    """A request above one limit is bad for that objective and for `all`."""
    results = judged(**changes)
    assert {name for name, result in results.items() if result == "bad"} == {bad, "all"}


def test_limit_itself_is_good() -> None:
    """A request exactly at the limit is good."""
    assert judged(first_token_seconds=2.5, seconds=4.5)["first_token"] == "good"


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_failed_request_is_bad_however_fast(status: str) -> None:
    """A failed request is bad, however fast it was."""
    results = judged(status=status, finish_reason="error", first_token_seconds=None)
    assert results == dict.fromkeys(("latency", "first_token", "all"), "bad")


def test_full_queue_is_the_services_fault() -> None:
    """A request refused by a full queue is bad."""
    results = judged(status="rejected", finish_reason=None, first_token_seconds=None)
    assert results["all"] == "bad"


@pytest.mark.parametrize("status", ["cancelled", "rejected"])
def test_callers_own_end_is_not_judged(status: str) -> None:
    """Requests that the client left, or that were too long, are not judged."""
    assert judged(status=status, finish_reason="error", first_token_seconds=None) == {}


def test_request_id_is_an_exemplar_in_openmetrics_only() -> None:
    """The newest request of a bucket is its exemplar, in OpenMetrics only."""
    state = State()
    node = state.node("n")
    events = [InferenceFinished(**(GOOD | {"request_id": name})) for name in ("first", "newest")]
    state.apply(node, Session("s"), events)
    cut = take_cut(state)
    text = render(cut, Wanted()).body.decode()
    assert "newest" not in text
    shown = render(cut, Wanted(openmetrics=True)).body.decode()
    lines = [line for line in shown.splitlines() if "request_id" in line]
    assert len(lines) == 2
    assert all('# {request_id="newest"}' in line and "_bucket{" in line for line in lines)


@pytest.mark.parametrize(
    ("sampled", "ratio", "shown"),
    [(True, 0.0, True), (False, 1.0, False), (None, 0.0, False), (None, 1.0, True)],
)
def test_recorded_trace_is_in_the_exemplar(
    *, sampled: bool | None, ratio: float, shown: bool
) -> None:
    """An exemplar leads to the trace if there is one, and stays within the limit of its labels."""
    trace = TraceContext(TRACE.trace_id, TRACE.span_id, sampled=sampled)
    ended = InferenceFinished(**(GOOD | {"request_id": "r" * 200, "trace": trace}))
    state = State(trace_ratio=ratio)
    state.apply(state.node("n"), Session("s"), [ended])
    text = render(take_cut(state), Wanted(openmetrics=True)).body.decode()
    examples = re.findall(r'# \{request_id="(r+)"(?:,trace_id="([0-9a-f]{32})")?\}', text)
    assert [bool(trace_id) for _, trace_id in examples] == [shown, shown]
    for request_id, trace_id in examples:
        assert len("request_id" + request_id + "trace_id" + trace_id) <= 128


def test_objective_that_is_no_bucket_bound_is_refused() -> None:
    """An objective must be a bucket bound; the error lists the bounds."""
    with pytest.raises(UsageError, match=r"--slo-latency-seconds=7 .* 5, 10, 20"):
        ExporterSettings.read("exporter", ["--slo-latency-seconds=7"], "")


def test_buckets_can_be_chosen() -> None:
    """Custom bounds of a family are used, for its objective as well."""
    flags = ["--buckets=inference_latency_seconds=1,7,9", "--slo-latency-seconds=7"]
    settings = ExporterSettings.read("exporter", flags, "")
    state = State(bounds=settings.buckets)
    assert state.new_histogram(LATENCY).bounds == (1, 7, 9)
    assert state.new_histogram(FIRST_TOKEN).bounds == FIRST_TOKEN.buckets


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nothing=1,2", "not a histogram"),
        ("inference_latency_seconds=", "not all numbers"),
        ("inference_latency_seconds=1,x", "not all numbers"),
        ("inference_latency_seconds=2,1", "not rising"),
        ("inference_latency_seconds=1,1", "not rising"),
        ("inference_latency_seconds=-1,1", "not rising"),
        ("inference_latency_seconds=1,inf", "not rising"),
        ("inference_latency_seconds=nan", "not rising"),
    ],
)
def test_malformed_buckets_are_refused(value: str, says: str) -> None:
    """Malformed bounds are refused with the name of the family."""
    with pytest.raises(UsageError, match=says):
        ExporterSettings.read("exporter", [f"--buckets={value}"], "")
