"""Where a request came from: its route and its place in the caller's trace."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from node.requests import tracing
from node.requests.request import InferenceRequest

_TRACEPARENT: Final = tracing.HEADER.encode()


def with_origin(wanted: InferenceRequest, scope: Mapping[str, Any], route: str) -> InferenceRequest:
    """Return a request with its origin.

    Args:
        wanted: The request.
        scope: The ASGI scope in which it came.
        route: Route template or gRPC method.
    """
    given = [value for name, value in scope["headers"] if name == _TRACEPARENT]
    header = given[0].decode("latin-1") if len(given) == 1 else ""  # two are invalid
    return replace(wanted, route=route, trace=tracing.begin(header, wanted.request_id))
