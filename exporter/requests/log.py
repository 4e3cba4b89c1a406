"""The request log: takes lines from the ingest without waiting, and writes them in a thread.

A line is taken once its batch is counted, which is after the batch is durable, and a batch that is
counted again after a restart is not taken again. So a request has at most one line: what waits here
when the exporter is killed has none, although its counts stay.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from exporter.ingest.batches import Counted
from exporter.metrics.catalogue.exporter import LOG_DROPPED, LOG_LINES
from exporter.metrics.catalogue.family import Family
from exporter.requests.files import Output
from exporter.requests.line import ENDS, line_of, write_line
from shared.repeats import Repeats

QUEUE_BYTES: Final = 4 * 2**20
"""Limit of lines that wait for the disk: some ten thousand."""
_LAST_SECONDS: Final = 1.0
"""How long the last lines may take at the end."""
_FAILED: Final = "failed"

_log = logging.getLogger(__name__)
Note = Callable[[Family, tuple[str, ...], float], None]


class RequestLog:
    """Writes one line for each ended request.

    Args:
        output: Where the lines go.
        note: Counts them.
        queue_bytes: Limit of lines that wait.
    """

    def __init__(self, output: Output, note: Note, queue_bytes: int = QUEUE_BYTES) -> None:
        self._output = output
        self._note = note
        self._queue_bytes = queue_bytes
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._arrived = trio.Event()
        self._repeats = Repeats(_log, trio.current_time)

    def take(self, counted: Counted) -> None:
        """Take the requests that ended. Never waits; drops and counts what does not fit."""
        dropped = 0
        for event in counted.happened:
            if isinstance(event, ENDS) and (line := line_of(event, counted)) is not None:
                dropped += not self._put(write_line(line))
        if dropped:
            self._drop("queue_full", dropped, "the disk is too slow for the request log")

    async def run(self) -> None:
        """Write what was taken. Runs until cancelled, and then writes the rest."""
        try:
            while True:
                await self._arrived.wait()
                await self._write()
        finally:
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                await self._write()

    def _put(self, line: bytes) -> bool:
        if self._waiting_bytes + len(line) > self._queue_bytes:
            return False
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._arrived.set()
        return True

    async def _write(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # before lines are taken, which it would lose
        lines, self._waiting, self._arrived = self._waiting, [], trio.Event()
        if not lines:
            return
        try:
            await trio.to_thread.run_sync(self._output.append, lines, abandon_on_cancel=True)
        except OSError as error:
            self._drop("failed", len(lines), f"the request log cannot be written: {error}")
        else:
            self._note(LOG_LINES, (), len(lines))
            if self._repeats.settle(_FAILED):
                _log.warning("the request log can be written again")
        self._waiting_bytes = sum(map(len, self._waiting))

    def _drop(self, reason: str, count: int, text: str) -> None:
        self._note(LOG_DROPPED, (reason,), count)
        self._repeats.note("%s: requests are left out", text, kind=_FAILED)
