"""Where a request came from, and why it failed, in the words of the request log."""

import pytest

from node import errors
from node.api.origin import with_origin
from node.requests.request import InferenceRequest, Sampling
from node.routing.client import PeerRefusedError
from shared.events.requests import ErrorReason
from tests.builders import TRACE

WANTED = InferenceRequest(
    model_id="m", prompt="p", max_tokens=1, sampling=Sampling(0, 1, 1, 1, 1), request_id="r"
)
HEADER = (b"traceparent", f"00-{TRACE.trace_id}-{TRACE.span_id}-01".encode())


def test_request_is_below_its_caller() -> None:
    """The one `traceparent` is continued, and the route kept."""
    asked = with_origin(WANTED, {"headers": [(b"accept", b"*/*"), HEADER]}, "/v1/completions")
    assert asked.route == "/v1/completions"
    assert asked.trace is not None
    assert (asked.trace.trace_id, asked.trace.parent_id) == (TRACE.trace_id, TRACE.span_id)


@pytest.mark.parametrize("headers", [[], [HEADER, HEADER], [(b"traceparent", b"\xff")]])
def test_trace_begins_without_one_valid_header(headers: list[tuple[bytes, bytes]]) -> None:
    """Two headers say no more than none."""
    asked = with_origin(WANTED, {"headers": headers}, "")
    assert asked.trace is not None
    assert asked.trace.trace_id != TRACE.trace_id
    assert asked.trace.parent_id == ""


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        ([HEADER, (b"tracestate", b"a=1"), (b"tracestate", b"b=2")], "a=1,b=2"),
        ([HEADER, (b"tracestate", b"")], ""),
        ([(b"tracestate", b"a=1")], ""),
        ([HEADER, (b"tracestate", b"a=\xff")], ""),
        ([HEADER, (b"tracestate", b"a=1\r\nx: y")], ""),
        ([HEADER, (b"tracestate", b"a" * 513)], ""),
    ],
)
def test_state_of_a_trace_is_kept_for_the_next_node(
    headers: list[tuple[bytes, bytes]], state: str
) -> None:
    """`tracestate` goes with its `traceparent`; one that cannot be a header is left out."""
    assert with_origin(WANTED, {"headers": headers}, "").trace_state == state


@pytest.mark.parametrize(
    ("client", "named"),
    [("key:1", "key:1"), ("certificate:2", "certificate:2"), ("10.0.0.1", ""), ("", "")],
)
def test_client_is_named_by_its_credentials_only(client: str, named: str) -> None:
    """An address is personal data, and in no event."""
    asked = InferenceRequest(
        model_id="m", prompt="p", max_tokens=1, sampling=WANTED.sampling, client=client
    )
    assert asked.credentials == named


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.EngineFailedError("x"), "engine"),
        (errors.UnavailableError("it does not start"), "engine"),
        (errors.InsufficientMemoryError("x"), "memory"),
        (errors.NodeLostError("x"), "peer"),
        (errors.OtherModelError("m"), "peer"),
        (errors.StoppingError("x"), "stopped"),
        (errors.UnavailableError("x", code="stopped"), "stopped"),
        (errors.UnavailableError("x", code="model_unloaded"), "stopped"),
        (errors.RequestError("a bug"), "internal"),
        (PeerRefusedError(500, "x", "engine_failed", None), "engine"),
        (PeerRefusedError(500, "x", "of a later version", None), "other"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_error_has_a_reason(error: errors.RequestError, reason: ErrorReason) -> None:
    """Each error of the service has one reason, a peer's the one that it had there."""
    assert error.reason == reason
