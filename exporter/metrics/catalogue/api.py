"""Responses of a node's API."""

from typing import Final

from exporter.metrics.catalogue.family import NODE, counter, histogram

_CALL: Final = (0.1, 1, 10)
"""Few, because each route, method and status has its own; the model's families are finer."""

RPC_REQUESTS: Final = counter(
    "rpc_requests_total",
    "Calls over gRPC that ended, by method and status code.",
    *NODE,
    "method",
    "code",
)
RPC_LATENCY: Final = histogram(
    "rpc_latency_seconds",
    _CALL,
    "Duration of a gRPC call in seconds.",
    *NODE,
    "method",
    "code",
)
HTTP_REQUESTS: Final = counter(
    "http_requests_total",
    "HTTP responses by route template and status; 499: the client left, 408: it did not read.",
    *NODE,
    "route",
    "method",
    "status",
)
HTTP_DURATION: Final = histogram(
    "http_request_duration_seconds",
    _CALL,
    "Seconds from an HTTP request to the end of its response.",
    *NODE,
    "route",
    "method",
    "status",
)
