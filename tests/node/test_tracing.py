"""A request's place in its caller's trace, as W3C Trace Context defines it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.requests import tracing
from shared.events.trace import TraceContext
from tests.builders import TRACE

TRACE_ID, SPAN_ID = TRACE.trace_id, TRACE.span_id


@pytest.mark.parametrize(
    ("given_value", "sampled"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", True),
        (f"00-{TRACE_ID}-{SPAN_ID}-00", False),
        (f"00-{TRACE_ID}-{SPAN_ID}-02", False),
        (f"00-{TRACE_ID}-{SPAN_ID}-ff", True),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-will-come", True),
    ],
)
def test_valid_header_is_continued(given_value: str, *, sampled: bool) -> None:
    """A request is a new span below its caller's, in the caller's trace."""
    begun = tracing.begin(given_value, "r")
    assert (begun.trace_id, begun.parent_id, begun.sampled) == (TRACE_ID, SPAN_ID, sampled)
    assert begun.span_id != SPAN_ID
    assert begun.is_valid


@pytest.mark.parametrize(
    "given_value",
    [
        "",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID[1:]}-{SPAN_ID}-01",
        f" 00-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
    ],
)
def test_invalid_header_is_ignored(given_value: str) -> None:
    """Without a valid header a trace begins here, and whether to record it is left open."""
    begun = tracing.begin(given_value, "r")
    assert begun.trace_id != TRACE_ID
    assert (begun.parent_id, begun.sampled) == ("", None)
    assert begun.is_valid


def test_new_trace_has_the_id_of_its_request() -> None:
    """Who knows the request's id knows the trace's, if the one has the form of the other."""
    assert tracing.begin("", TRACE_ID).trace_id == TRACE_ID
    assert tracing.begin("", "0" * 32).trace_id != "0" * 32


def test_what_is_written_is_read() -> None:
    """A callee reads the place that a node wrote."""
    assert tracing.read(tracing.write(TRACE)) == TraceContext(TRACE_ID, SPAN_ID, sampled=True)


@given(st.text(max_size=80))
def test_any_header_gives_a_valid_place(value: str) -> None:
    """Whatever a caller sends, the ids are valid."""
    assert tracing.begin(value, value).is_valid
