"""Where a request came from: its route and its place in the caller's trace."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from node.requests import tracing
from node.requests.request import InferenceRequest

_TRACEPARENT: Final = tracing.HEADER.encode()
_TRACESTATE: Final = tracing.STATE_HEADER.encode()


def with_origin(wanted: InferenceRequest, scope: Mapping[str, Any], route: str) -> InferenceRequest:
    """Return a request with its origin.

    Args:
        wanted: The request.
        scope: The ASGI scope in which it came.
        route: Route template or gRPC method.
    """
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
    given = [value for name, value in headers if name == _TRACEPARENT]
    parent = given[0] if len(given) == 1 else ""  # two are invalid
    state = ""
    if tracing.read(parent) is not None:  # without its parent it means nothing
        state = tracing.read_state(value for name, value in headers if name == _TRACESTATE)
    trace = tracing.begin(parent, wanted.request_id)
    return replace(wanted, route=route, trace=trace, trace_state=state)
