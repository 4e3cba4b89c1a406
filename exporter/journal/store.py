"""State that outlives its process: every change is in the journal before it is visible.

One lock orders the changes. What touches the disk runs in a worker thread; a disk that is full,
read-only, gone or slow costs durability, which then shows as 0, and never makes a node wait. A new
log with a snapshot beside it brings it back.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from exporter.errors import StartupError
from exporter.ingest.batches import Counted, Ingest
from exporter.journal.changes import BATCH, OWN, SILENCE, OwnSample, move_own, pack_change, pack_own
from exporter.journal.journal import Journal, JournalError
from exporter.journal.snapshot import freeze, pack
from exporter.metrics.catalogue.exporter import QUARANTINED
from exporter.metrics.catalogue.family import Family
from exporter.metrics.catalogue.telemetry import REJECTED
from exporter.metrics.nodes import Labels
from shared import wire

ROTATE_BYTES: Final = 8 * 2**20
"""A log this long is replaced by a snapshot: it bounds the disk used and the time of a start."""
TICK_SECONDS: Final = 0.25
SYNC_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 2.0
APPEND_SECONDS: Final = 0.5
"""A disk that takes longer than this for one record counts as failed."""
_SLICES: Final = 5
_AWAY_SECONDS: Final = 1.0
"""A tick this late means that this process was stopped or starved, not its nodes."""
CLOSE_SECONDS: Final = 2.0
REPLACE_SECONDS: Final = 5.0
"""Like `APPEND_SECONDS`, for a snapshot during which nothing else may change."""

Listener = Callable[[Counted], None]
_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Store:
    """The state and its journal; `exporter.journal.opening` recovers one.

    Args:
        ingest: Decides what a message means for its state.
        directory: The state directory.
        journal: Recovered; None while the directory cannot be used.
        failure: Why there is none.
        rotate_bytes: Length at which the log is replaced.
    """

    def __init__(
        self,
        ingest: Ingest,
        directory: Path,
        journal: Journal | None,
        failure: str = "",
        rotate_bytes: int = ROTATE_BYTES,
    ) -> None:
        self.state: Final = ingest.state
        self.listeners: Final[list[Listener]] = []
        """Called with what was counted, in order and once. They neither wait nor raise."""
        self.page_url = ""
        """Where the status page listens; sent to the nodes."""
        self._ingest = ingest
        self._directory = directory
        self._journal = journal
        self._failure = failure
        """Why records are not being written; empty while they are."""
        self._rotate_bytes = rotate_bytes
        self._changes = trio.Lock()
        self._appending = threading.Lock()
        self._own: list[OwnSample] = []
        self._quarantined: Counter[str] = Counter()
        """Quarantined pieces that have been counted."""
        self._note_storage()
        self._note_quarantine()

    async def take(
        self, message: bytes, pipe: int, live: Callable[[], Container[int]]
    ) -> wire.Reply:
        """Count a message and return the reply. Never raises, whatever the bytes are.

        Args:
            message: The bytes received, perhaps not from a node.
            pipe: The connection that they arrived on.
            live: Returns the connections that are open now.
        """
        async with self._changes:
            accepted = self._ingest.examine(message, trio.current_time(), pipe, live)
            if isinstance(accepted, wire.Reply):
                self.note(REJECTED, (accepted.error,), 1)
                return accepted
            received_at = time.time()
            await self._keep(BATCH, received_at, message)
            fresh = self._ingest.fresh(accepted)
            reply = self._ingest.count(accepted, trio.current_time(), received_at)
            if accepted.batch.goodbye:
                _log.info("node %s said goodbye", accepted.batch.node_id)
            counted = Counted(accepted.batch.node_id, fresh, received_at)
            for listener in self.listeners:
                listener(counted)
            return msgspec.structs.replace(
                reply, durable=self.state.storage.durable, page_url=self.page_url
            )

    def note(self, family: Family, labels: Labels, value: float) -> None:
        """Move a metric of the exporter's own; it is visible after the next tick."""
        self._own.append((family.name, labels, value))

    async def watch_nodes(self) -> None:
        """Notice silent nodes and count the exporter's own metrics. Runs until cancelled."""
        while True:
            await self.tick(trio.current_time())
            due = trio.current_time() + TICK_SECONDS
            await trio.sleep_until(due)
            now = trio.current_time()
            if now - due > _AWAY_SECONDS:
                self._ingest.excuse(now - due, now)

    async def tick(self, now: float) -> None:
        """Count the exporter's own metrics and remove the levels of nodes that fell silent."""
        async with self._changes:
            own, self._own = self._own, []
            if own:
                await self._keep(OWN, time.time(), pack_own(own))
                move_own(self.state, own)
            for node_id in self._ingest.silent(now):
                _log.warning("node %s is gone: it sends nothing", node_id)
                await self._keep(SILENCE, time.time(), node_id.encode())
                self._ingest.lose(node_id)

    def close(self) -> None:
        """Sync the log and release the directory. Blocks."""
        if self._journal is None:
            return
        # A disk that does not answer must not keep the process from ending.
        syncing = threading.Thread(target=self._sync_last, args=(self._journal,), daemon=True)
        syncing.start()
        syncing.join(CLOSE_SECONDS)
        if syncing.is_alive():
            _log.warning("%s does not answer: leaving it", self._directory)
        else:
            self._journal.close()

    @staticmethod
    def _sync_last(journal: Journal) -> None:
        try:
            journal.sync()
        except JournalError as error:
            _log.warning("the journal may lack its last second: %s", error)

    async def _keep(self, kind: int, received_at: float, content: bytes) -> None:
        """Append a record to the journal, or note why that failed."""
        if self._failure or self._journal is None:
            return
        record = pack_change(kind, received_at, content)
        try:
            await self._on_disk(self._journal.append, record)
        except JournalError as error:
            self._fail(error)
        self._note_storage()

    async def keep_journal(self) -> None:
        """Sync the log, replace a long one, recover after a failure. Runs until cancelled."""
        while True:
            await trio.sleep(RETRY_SECONDS if self._failure else SYNC_SECONDS)
            try:
                if self._failure or self.state.storage.journal_bytes > self._rotate_bytes:
                    await self._rotate()
                elif self._journal is not None:
                    await _in_thread(self._journal.sync)
            except (JournalError, StartupError) as error:
                self._fail(error)

    async def _rotate(self) -> None:
        """Start a log and write a snapshot of the state at that moment."""
        async with self._changes:
            if self._journal is None:
                self._journal = await self._on_disk(Journal.open, self._directory)
            journal = self._journal
            try:
                generation = await self._on_disk(journal.begin_rotation)
            except JournalError:
                if not self._failure:
                    raise
                await self._replace(journal)
                return
            snapshot = freeze(self.state)
            recovered, self._failure = self._failure, ""
        try:
            await _in_thread(lambda: journal.write_snapshot(generation, pack(snapshot)))
        except JournalError as error:
            if recovered:
                raise
            # Both logs are complete: nothing is missing, they only stay until the next rotation.
            _log.warning("the journal's snapshot could not be written: %s", error)
        self._note_storage()
        self._note_quarantine()
        if recovered:
            _log.warning("metrics are durable again in %s", self._directory)

    async def _replace(self, journal: Journal) -> None:
        """Replace logs that have reached their limit by a snapshot."""
        packed = pack(freeze(self.state))
        await self._on_disk(journal.rotate, packed, seconds=REPLACE_SECONDS)
        self._failure = ""
        self._note_storage()
        self._note_quarantine()
        _log.warning("metrics are durable again in %s", self._directory)

    async def _on_disk(
        self, call: Callable[..., _T], *arguments: object, seconds: float = APPEND_SECONDS
    ) -> _T:
        """Call the journal, giving up if the disk does not answer.

        Raises:
            JournalError: It failed, or one that was given up is still under way.
        """

        def alone() -> _T:
            if not self._appending.acquire(blocking=False):
                raise JournalError(f"{self._directory} still does not answer")
            try:
                return call(*arguments)
            finally:
                self._appending.release()

        outcomes: list[Any] = []
        ended = trio.Event()

        def settle(outcome: Any) -> None:
            outcomes.append(outcome)
            ended.set()

        _start_thread(alone, settle)
        # In slices: after a stop of the whole process only one slice has passed, and the disk,
        # which was not at fault, has the others to answer.
        for _ in range(_SLICES):
            with trio.move_on_after(seconds / _SLICES):
                await ended.wait()
            if outcomes:
                value: _T = outcomes[0].unwrap()
                return value
        raise JournalError(f"{self._directory} did not answer within {seconds} s")

    def _fail(self, error: Exception) -> None:
        if not self._failure:
            _log.error("metrics are not durable: %s", error)
            if self._journal is not None:
                self._journal.note_gap()
        self._failure = str(error)
        self._note_storage()

    def _note_storage(self) -> None:
        storage = self.state.storage
        storage.failure = self._failure
        storage.durable = not self._failure and self._journal is not None
        if self._journal is not None:
            storage.durable = storage.durable and self._journal.is_durable
            storage.journal_bytes = self._journal.size_bytes

    def _note_quarantine(self) -> None:
        """Count the pieces quarantined since the last call."""
        if self._journal is not None:
            quarantined = Counter(self._journal.quarantined)
            for kind, count in (quarantined - self._quarantined).items():
                self.note(QUARANTINED, (kind,), count)
            self._quarantined = quarantined


async def _in_thread(call: Callable[..., _T], *arguments: object) -> _T:
    return await trio.to_thread.run_sync(call, *arguments, abandon_on_cancel=True)


def _start_thread(call: Callable[[], object], settle: Callable[[Any], object]) -> None:
    """Call in a worker thread, then pass the outcome to the event loop, if that still runs.

    Every batch of events pays for one such call: 90 microseconds of CPU time instead of 270 with a
    nursery and `trio.to_thread`.
    """
    token = trio.lowlevel.current_trio_token()

    def deliver(outcome: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(settle, outcome)

    trio.lowlevel.start_thread_soon(call, deliver)
