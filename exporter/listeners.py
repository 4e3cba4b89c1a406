"""What listens to counted events: the request log and the traces, if the settings want them."""

from collections.abc import Iterator
from typing import Protocol

from exporter.errors import StartupError
from exporter.ingest.batches import Counted
from exporter.journal.store import Listener
from exporter.metrics.catalogue.exporter import ExporterPart
from exporter.requests.files import STDOUT, FileOutput, StreamOutput
from exporter.requests.log import Note, RequestLog
from exporter.settings import ExporterSettings
from exporter.traces.sender import SpanSender
from shared.runtime.guard import Guard


class Listening(Protocol):
    """A part that takes counted events and works on them in a task of its own."""

    def take(self, counted: Counted) -> None:
        """Take what it needs. Never waits."""

    async def run(self) -> None:
        """Work on what was taken. Runs until cancelled."""


def build_listeners(
    settings: ExporterSettings, note: Note
) -> Iterator[tuple[ExporterPart, Listening]]:
    """Yield the listeners that the settings want, each with the name of its part.

    Args:
        settings: The exporter's settings.
        note: Counts what they write, send and drop.

    Raises:
        StartupError: A listener needs a library that is not installed.
    """
    if (path := settings.request_log) is not None:
        to_files = FileOutput(path, settings.request_log_mib * 2**20)
        yield "request_log", RequestLog(StreamOutput() if path == STDOUT else to_files, note)
    if settings.otlp_endpoint:
        yield "traces", _span_sender(settings, note)


def contained(listening: Listening, part: ExporterPart, guard: Guard[ExporterPart]) -> Listener:
    """Return a listener whose bugs cost what it listens for, and not a node's batch."""

    def listen(counted: Counted) -> None:
        with guard.contain(part):
            listening.take(counted)

    return listen


def _span_sender(settings: ExporterSettings, note: Note) -> SpanSender:
    try:
        # OpenTelemetry is optional, and importing it takes time and memory.
        from exporter.traces.otlp import OtlpCollector  # noqa: PLC0415
    except ImportError as error:
        message = (
            f"--otlp-endpoint: OpenTelemetry is not installed ({error}): "
            "pip install 'distributed-llm[traces]'"
        )
        raise StartupError(message) from error
    return SpanSender(OtlpCollector(settings.otlp_endpoint), settings.trace_ratio, note)
