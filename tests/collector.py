"""A collector of traces: takes OTLP over HTTP, decoded by OpenTelemetry's own messages."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What arrived, and how the collector behaves."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        self.status = 200
        self.hangs = False
        self.called = threading.Event()
        self.released = threading.Event()

    @property
    def spans(self) -> list[tuple[str, Span]]:
        """Every span with the node that it is of."""
        return [
            (_node_of(each.resource), span)
            for request in self.requests
            for each in request.resource_spans
            for scoped in each.scope_spans
            for span in scoped.spans
        ]


def _node_of(resource: Resource) -> str:
    told: dict[str, str] = {each.key: each.value.string_value for each in resource.attributes}
    return told["service.instance.id"]


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector until the block ends."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.paths.append(self.path)
            collector.called.set()
            if collector.hangs:
                collector.released.wait()
            if collector.status == 200:
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            collector.released.set()
            server.shutdown()
