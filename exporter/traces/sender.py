"""Sends spans: takes them from the ingest without waiting, and sends them in a thread."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import trio

from exporter.ingest.batches import Counted
from exporter.metrics.catalogue.exporter import SPANS, SPANS_DROPPED
from exporter.requests.log import Note
from exporter.traces.sampling import is_recorded
from exporter.traces.spans import TRACED, Span, spans_of
from shared.repeats import Repeats

QUEUE_SPANS: Final = 8192
"""Limit of spans that wait for the collector: some two thousand requests, a few megabytes."""
_BATCH_SPANS: Final = 512
_COLLECT_SECONDS: Final = 1.0
"""How long spans are collected for one message."""
_LAST_SECONDS: Final = 1.0
_FAILED: Final = "failed"

_log = logging.getLogger(__name__)


class Collector(Protocol):
    """Where spans go."""

    def send(self, spans: Sequence[Span]) -> str:
        """Send spans. Return why that failed; empty if it did not. Blocks, and never raises."""


class SpanSender:
    """Makes spans of what was counted, and sends them.

    Args:
        collector: Where they go.
        ratio: The share of the traces to record whose caller leaves that open.
        note: Counts them.
        queue_spans: Limit of spans that wait.
    """

    def __init__(
        self, collector: Collector, ratio: float, note: Note, queue_spans: int = QUEUE_SPANS
    ) -> None:
        self._collector = collector
        self._ratio = ratio
        self._note = note
        self._queue_spans = queue_spans
        self._waiting: deque[Span] = deque()
        self._arrived = trio.Event()
        self._repeats = Repeats(_log, trio.current_time)

    def take(self, counted: Counted) -> None:
        """Take the spans of recorded traces. Never waits; drops and counts what does not fit."""
        dropped = 0
        for event in counted.happened:
            if not isinstance(event, TRACED) or not is_recorded(event.trace, self._ratio):
                continue
            for span in spans_of(event, counted):
                if not math.isfinite(span.start + span.end):
                    continue  # a damaged event; the ingest counts it as invalid
                if len(self._waiting) < self._queue_spans:
                    self._waiting.append(span)
                else:
                    dropped += 1
        if self._waiting:
            self._arrived.set()
        if dropped:
            self._drop("queue_full", dropped, "the collector is too slow")

    async def run(self) -> None:
        """Send what was taken. Runs until cancelled, and then sends the rest."""
        try:
            while True:
                await self._arrived.wait()
                await trio.sleep(_COLLECT_SECONDS)
                await self._send_all()
        finally:
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                await self._send_all()

    async def _send_all(self) -> None:
        self._arrived = trio.Event()
        while self._waiting:
            await trio.lowlevel.checkpoint_if_cancelled()  # before any is taken, and lost
            count = min(len(self._waiting), _BATCH_SPANS)
            spans = [self._waiting.popleft() for _ in itertools.repeat(None, count)]
            fault = await trio.to_thread.run_sync(
                self._collector.send, spans, abandon_on_cancel=True
            )
            if fault:
                self._drop("failed", len(spans), fault)
            else:
                self._note(SPANS, (), len(spans))
                if self._repeats.settle(_FAILED):
                    _log.warning("the collector accepts spans again")

    def _drop(self, reason: str, count: int, text: str) -> None:
        self._note(SPANS_DROPPED, (reason,), count)
        self._repeats.note("%s: spans are dropped", text, kind=_FAILED)
