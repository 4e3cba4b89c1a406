"""Sends spans over OTLP/HTTP; the only module that imports OpenTelemetry, which is optional.

The library reads its own variables for what is not set here, such as OTEL_EXPORTER_OTLP_HEADERS,
OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_COMPRESSION and OTEL_EXPORTER_OTLP_TIMEOUT.
"""

import functools
import importlib.metadata
import logging
from collections.abc import Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from exporter.traces.spans import Span
from shared.settings.base import APPLICATION

PATH: Final = "/v1/traces"
SERVICE: Final = "distributed-llm-node"
_NODES: Final = 64
"""Limit of nodes whose resource is kept; no exporter has that many."""
_KINDS: Final = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_LATEST: Final = 2**63 - 1
_SCOPE: Final = InstrumentationScope(APPLICATION, importlib.metadata.version(APPLICATION))


class OtlpCollector:
    """A collector, over HTTP.

    Args:
        endpoint: Its URL, without the path of traces.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint.rstrip("/") + PATH)
        self._said = _LastWords()
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False  # it writes several lines for each failure; one is enough
        logger.addHandler(self._said)

    def send(self, spans: Sequence[Span]) -> str:
        """Send spans, with the library's retries. Return why that failed; empty if it did not."""
        result = self._exporter.export([_readable(span) for span in spans])
        if result is SpanExportResult.SUCCESS:
            return ""
        return f"{self._endpoint} does not accept spans ({self._said.text})"


class _LastWords(logging.Handler):
    """Keeps the library's last line."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.text = record.getMessage()


def _readable(span: Span) -> ReadableSpan:
    """Return a finished span in the library's form; a tracer can only make its own."""
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, is_remote=False),
        parent=_context(span.trace_id, span.parent_id, is_remote=True) if span.parent_id else None,
        resource=_resource(span.node_id),
        attributes=span.attributes,
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
        start_time=_nanoseconds(span.start),
        end_time=_nanoseconds(span.end),
        instrumentation_scope=_SCOPE,
    )


def _context(trace_id: str, span_id: str, *, is_remote: bool) -> SpanContext:
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, sampled)


@functools.lru_cache(maxsize=_NODES)
def _resource(node_id: str) -> Resource:
    return Resource.create({"service.name": SERVICE, "service.instance.id": node_id})


def _nanoseconds(seconds: float) -> int:
    return min(max(0, round(seconds * 1e9)), _LATEST)
