"""Opens the store at a start: recovers the state that the state directory holds."""

import logging
from collections.abc import Callable
from pathlib import Path

from exporter.ingest.batches import Ingest
from exporter.journal.changes import apply_change, unpack_change
from exporter.journal.journal import Journal, JournalError
from exporter.journal.snapshot import UnreadableSnapshotError, restore_into
from exporter.journal.store import ROTATE_BYTES, Store
from exporter.metrics.catalogue.exporter import RECOVERED_EVENTS
from exporter.metrics.state import State

_log = logging.getLogger(__name__)


def open_store(
    directory: Path,
    empty: Callable[[], State],
    timeout_seconds: float,
    rotate_bytes: int = ROTATE_BYTES,
) -> Store:
    """Recover the state that a directory holds. Blocks; nothing may be shown before it returns.

    Args:
        directory: Created if missing; without durability if it cannot be used.
        empty: Returns an empty state.
        timeout_seconds: A node that is silent for this long counts as gone.
        rotate_bytes: Length at which the log is replaced.

    Raises:
        StartupError: Another exporter holds the directory.
    """
    try:
        journal = Journal.open(directory)
    except JournalError as error:
        _log.error("metrics are not durable: %s", error)
        ingest = Ingest(empty(), timeout_seconds)
        return Store(ingest, directory, None, str(error), rotate_bytes)
    failure = ""
    try:
        ingest = _recover(journal, empty, timeout_seconds)
    except JournalError as error:
        ingest, failure = Ingest(empty(), timeout_seconds), str(error)
    else:
        failure = _begin_log(journal)
    if failure:
        _log.error("metrics are not durable: %s", failure)
    return Store(ingest, directory, journal, failure, rotate_bytes)


def _begin_log(journal: Journal) -> str:
    """Return why nothing can be written after what was read, which is shown all the same."""
    try:
        journal.recovered()
    except JournalError as error:
        return str(error)
    return ""


def _recover(journal: Journal, empty: Callable[[], State], timeout_seconds: float) -> Ingest:
    while True:
        snapshot, records = journal.recover()
        state = empty()
        try:
            if snapshot is not None:
                restore_into(state, snapshot)
            break
        except UnreadableSnapshotError as error:
            _log.error("%s: moving it to quarantine", error)
            journal.reject_snapshot()
    ingest = Ingest(state, timeout_seconds)
    recovered = sum(apply_change(ingest, unpack_change(record)) for record in records)
    state.move(RECOVERED_EVENTS, (), recovered)
    state.ended.clear()  # they ended before this process began
    return ingest
