"""A request's place in a trace, as W3C Trace Context writes it (https://www.w3.org/TR/trace-context/).

The node passes the ids on and adds its own. Spans are made of events, in the exporter.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Final

from shared.events.trace import TraceContext

HEADER: Final = "traceparent"
STATE_HEADER: Final = "tracestate"
"""What tracing systems say about a trace to each other; passed on as it is."""
_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1
_STATE: Final = re.compile(r"[\x20-\x7e]{0,512}")
"""The length that everybody must pass on (section 3.3.1.5); a longer one is left out."""


def begin(given: str, request_id: str) -> TraceContext:
    """Return the place of a request that a caller sends.

    Without a valid header a trace begins here. Its id is the request's id if that has the form of
    one, so that a caller who knows the one has both.

    Args:
        given: The value of the caller's `traceparent`; empty without one.
        request_id: The request's id.
    """
    if (caller := read(given)) is not None:
        return below(caller)
    same = TraceContext(request_id, _new_span_id())
    return same if same.is_valid else TraceContext(secrets.token_hex(16), same.span_id)


def below(parent: TraceContext) -> TraceContext:
    """Return the place of a new span below another one."""
    return TraceContext(parent.trace_id, _new_span_id(), parent.span_id, parent.sampled)


def read(given: str) -> TraceContext | None:
    """Return what a header's value says; None if it is invalid.

    Later versions may add fields at the end (section 3.2.4 of the specification).
    """
    found = _HEADER.fullmatch(given)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    context = TraceContext(found[2], found[3], sampled=bool(int(found[4], 16) & _SAMPLED))
    return context if context.is_valid else None


def read_state(given: Iterable[str]) -> str:
    """Return the value of a `tracestate`, whose parts may come in several headers."""
    joined = ",".join(value for value in given if value)
    return joined if _STATE.fullmatch(joined) else ""


def write(context: TraceContext) -> str:
    """Return the value of the header for a callee."""
    return f"00-{context.trace_id}-{context.span_id}-{int(context.sampled or False):02x}"


def _new_span_id() -> str:
    """Return a random id; that it is all zeros, which is invalid, will not happen."""
    return secrets.token_hex(8)
