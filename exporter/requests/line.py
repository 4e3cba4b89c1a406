"""A line of the request log: what is known of one ended request, and never its text."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from exporter.ingest.batches import Counted
from shared.events.event import Event
from shared.events.requests import (
    ErrorReason,
    FinishReason,
    InferenceFinished,
    Operation,
    RequestForwarded,
    RequestStatus,
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request that ended on a node, as one JSON object. Every field is always written."""

    time: str
    """When it ended, by the node's clock: RFC 3339, in UTC with milliseconds."""
    node_id: str
    request_id: str
    trace_id: str | None = None
    model_id: str
    operation: Operation
    route: str | None = None
    client: str | None = None
    """`key:` or `certificate:` and a name, if the caller had credentials."""
    status: RequestStatus
    reason: ErrorReason | None = None
    """Why the status is `error`."""
    code: str | None = None
    """The code of the error with which the caller was answered."""
    finish_reason: FinishReason | None = None
    seconds: float
    queue_seconds: float
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    first_token_seconds: float | None = None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    resumed: int = 0
    """How often this node continued it after its engine or another node was lost."""
    forwarded_to: str | None = None
    """The peer that answered it and has its phases in a line of its own; null if none did."""


_encoder: Final = msgspec.json.Encoder()
decoder: Final = msgspec.json.Decoder(Line)
ENDS: Final = (InferenceFinished, RequestForwarded)


def write_line(line: Line) -> bytes:
    """Return a line with its end."""
    return _encoder.encode(line) + b"\n"


def line_of(event: Event | None, counted: Counted) -> Line | None:
    """Return the line of an event; None if it does not end a request for its caller."""
    match event:
        case InferenceFinished():
            return _answered(event, counted)
        case RequestForwarded(status=status) if status is not None:
            return _forwarded(event, status, counted)
    return None


def _answered(e: InferenceFinished, counted: Counted) -> Line:
    # An older node does not report the time; that of its arrival is close to it.
    ended_at = e.ended_at or counted.received_at
    first_token = e.first_token_seconds
    return _line(
        e,
        e.status,
        ended_at,
        counted.node_id,
        prefill_seconds=_rounded(e.prefill_seconds),
        decode_seconds=_rounded(e.decode_seconds),
        first_token_seconds=None if first_token is None else _rounded(first_token),
        resumed=e.resumed,
    )


def _forwarded(e: RequestForwarded, status: RequestStatus, counted: Counted) -> Line:
    return _line(e, status, e.ended_at, counted.node_id, forwarded_to=e.peer)


def _line(
    e: InferenceFinished | RequestForwarded,
    status: RequestStatus,
    ended_at: float,
    node_id: str,
    **own: Any,
) -> Line:
    """Return what both events say, with the fields that only one of them has."""
    return Line(
        time=_written(ended_at),
        node_id=node_id,
        request_id=e.request_id,
        trace_id=e.trace.trace_id if e.trace else None,
        model_id=e.model_id,
        operation=e.operation,
        route=e.route or None,
        client=e.client or None,
        status=status,
        reason=e.reason,
        code=e.code or None,
        finish_reason=e.finish_reason,
        seconds=_rounded(e.seconds),
        queue_seconds=_rounded(e.queue_seconds),
        prompt_tokens=e.prompt_tokens,
        cached_tokens=e.cached_tokens,
        generated_tokens=e.generated_tokens,
        **own,
    )


def _written(at: float) -> str:
    """Return a Unix time as text. Any number is one: a node may send any."""
    within = min(max(0.0, at), _LAST)  # in this order, NaN is 0
    return datetime.fromtimestamp(within, UTC).isoformat(timespec="milliseconds")


_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
