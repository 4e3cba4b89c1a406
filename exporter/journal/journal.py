"""The durable log of what the exporter counted: raw batches since the last snapshot of its state.

The state directory holds `snapshot-<n>.msgpack`, everything before generation n, and
`journal-<n>.log`, the records since. A rotation starts log n+1, writes snapshot n+1 beside it
under another name, renames it, and only then deletes what is older. So whenever the process
ends, the newest readable snapshot and the logs from its generation on, in order, give each record
once: without snapshot n+1 that is snapshot n with the logs n and n+1.

Bounds of the disk space: `logs_bytes` for all logs together (one; two during a rotation; one more
for each rotation that got records but no snapshot), two snapshots (one during the writing of the
other), `quarantine.BYTES`, and a page for the rest. A disk should have that much: a new snapshot
needs its room before the older files give back theirs.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from exporter.errors import ExporterError, StartupError
from exporter.journal.current_log import CurrentLog
from exporter.journal.quarantine import Quarantine
from exporter.journal.records import (
    log_generations,
    log_path,
    snapshot_generations,
    snapshot_path,
)
from exporter.journal.recovery import Recovery
from exporter.journal.state_directory import StateDirectory

LOGS_BYTES: Final = 256 * 1024 * 1024
"""A guess: hours of a busy node's batches, in case no snapshot can be written."""


class JournalError(ExporterError):
    """The state directory is unusable at present: the exporter continues without durability."""


class Journal:
    """Appends records, reads them back after a crash and replaces them by snapshots.

    One rotation at a time. `append`, `begin_rotation` and `rotate` belong to one thread; `sync`
    and `write_snapshot` may run in another one meanwhile, but not both at once.

    Args:
        directory: Locked, closed with the journal.
        logs_bytes: Limit of all logs together.
    """

    def __init__(self, directory: StateDirectory, logs_bytes: int = LOGS_BYTES) -> None:
        self._directory = directory
        self._quarantine = Quarantine(directory.path / "quarantine")
        self._recovery = Recovery(directory.path, self._quarantine)
        self._log = CurrentLog(directory, logs_bytes, f"{directory.path} is not recovered")
        self._is_recovered = False
        """Whether the caller's state includes what was on disk."""
        self._snapshot_generation = 0
        self._needed_generation = 0
        """Generation of the snapshot without which records are missing."""

    @classmethod
    def open(cls, directory: Path, logs_bytes: int = LOGS_BYTES) -> Self:
        """Open a state directory, created if it is missing.

        Then `recover` what is there, or `rotate` to replace it.

        Raises:
            StartupError: Another exporter holds the directory.
            JournalError: The directory cannot be used.
        """
        with _translated(directory):
            return cls(StateDirectory(directory), logs_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory."""
        self._log.retire("the journal is closed")
        self._log.close_retired()
        self._directory.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the current log, 0 if there is none."""
        return self._log.size_bytes

    @property
    def is_durable(self) -> bool:
        """Whether a start after a crash at this moment would find every record."""
        return self._log.writer is not None and self._snapshot_generation >= self._needed_generation

    @property
    def quarantined(self) -> Counter[str]:
        """Quarantined pieces by kind: `tail` or whole `log`, `snapshot`, `poison` (a record)."""
        return self._quarantine.counts

    @property
    def recovered_records(self) -> int:
        """Records returned by recovery."""
        return self._recovery.records

    @property
    def cut_bytes(self) -> int:
        """Bytes of logs that recovery could not use."""
        return self._recovery.cut_bytes

    def recover(self) -> tuple[bytes | None, Iterator[bytes]]:
        """Return the newest readable snapshot, and the records after it to iterate over once.

        Apply each record in the body of the loop, then call `recovered`. Whatever is damaged is
        set aside and counted: an unreadable snapshot, for which an older one stands in if there
        is one; a log from its first damaged record to its end; a record that ended the exporter
        twice in a row while it was being applied.

        Raises:
            JournalError: The directory cannot be read or changed (the iterator raises it too).
        """
        with _translated(self._directory.path):
            snapshot = self._recovery.read_snapshot()
        return snapshot, self._recover_records()

    def reject_snapshot(self) -> None:
        """Quarantine the snapshot that `recover` returned; call that again for the rest."""
        self._recovery.reject_snapshot()

    def recovered(self) -> None:
        """Finish recovery after the last record was applied; records can be appended from now on.

        Raises:
            JournalError: The directory cannot be changed.
            RuntimeError: Not all records were taken from the iterator.
        """
        if not self._recovery.is_done:
            raise RuntimeError("records are left to recover")
        with _translated(self._directory.path):
            self._is_recovered = True
            self._snapshot_generation = self._recovery.snapshot_generation
            self._directory.forget_before(self._snapshot_generation)
            self._log.generation = newest = self._directory.newest_generation()
            # Only a log that was read to its end can be appended to.
            if self._recovery.log_generation == newest > 0:
                self._log.resume(newest)
            else:
                self._log.start(newest + 1)
            self._recovery.close()

    def append(self, payload: bytes) -> None:
        """Append a record. It survives the end of the process, and a power cut only after `sync`.

        After a failure no record is taken until a rotation, so that the log has no gap.

        Raises:
            JournalError: The record is not kept.
            ValueError: The payload is longer than `records.RECORD_BYTES`.
        """
        writer = self._log.writer
        if writer is None:
            raise JournalError(self._log.failure)
        try:
            writer.append(payload)
        except OSError as error:
            self.note_gap()
            self._log.retire(f"{writer.path} cannot be written ({error.strerror})")
            raise JournalError(self._log.failure) from error

    def note_gap(self) -> None:
        """Note that records are missing from now on: only a newer snapshot makes up for them."""
        self._needed_generation = max(self._needed_generation, self._log.generation + 1)

    def sync(self) -> None:
        """Sync the current log to disk. Blocks.

        Raises:
            JournalError: Records may be lost by a power cut, until a rotation.
        """
        writer, generation = self._log.writer, self._log.generation
        with _translated(self._directory.path):
            try:
                if writer:
                    writer.sync()
            except OSError:
                self._needed_generation = generation + 1
                raise

    def begin_rotation(self) -> int:
        """Start a log, unless the current one is empty, and return its generation.

        The state as of now is what the snapshot needs.

        If the snapshot cannot be written, just begin again: the older logs stay until one is.

        Raises:
            JournalError: No log can be started, or the logs are at their limit (see `rotate`).
        """
        with _translated(self._directory.path):
            generation = self._next_generation()
            if self._is_fresh():  # each retry of a failed snapshot would leave another file
                return self._log.generation
            if self._directory.logs_bytes(generation) >= self._log.limit_bytes:
                raise JournalError(f"the logs in {self._directory.path} are at their limit")
            self._log.start(generation)
        return generation

    def write_snapshot(self, generation: int, payload: bytes) -> None:
        """Write the state as of `begin_rotation`, then delete older files. Blocks.

        Raises:
            JournalError: The snapshot is not kept; all that was there before still is.
        """
        with _translated(self._directory.path):
            self._log.close_retired()
            self._directory.write_snapshot(generation, payload)
            self._snapshot_generation = generation
            if not self._is_recovered:
                self._set_aside_before(generation)
                self._is_recovered = True
            self._directory.forget_before(generation)
            self._log.set_limit()

    def rotate(self, snapshot: bytes) -> None:
        """Replace everything on disk by a snapshot of now and start a new log. Blocks.

        Unlike the two steps it needs no room for one more log and leaves no time in which records
        are refused: the way back after a failure. Nothing may be appended meanwhile.

        Raises:
            JournalError: The directory still cannot be used.
        """
        with _translated(self._directory.path):
            generation = self._next_generation()
            # Once the snapshot exists, nothing would read later records of the old log.
            self._log.retire(f"{self._directory.path} could not be rotated")
            self.write_snapshot(generation, snapshot)
            self._log.start(generation)

    def _set_aside_before(self, generation: int) -> None:
        """Keep files that were never read: they may hold earlier counts."""
        path = self._directory.path
        for older in log_generations(path):
            if older < generation:
                self._quarantine.move("log", log_path(path, older))
        for older in snapshot_generations(path):
            if older < generation:
                self._quarantine.move("snapshot", snapshot_path(path, older))

    def _recover_records(self) -> Iterator[bytes]:
        with _translated(self._directory.path):
            yield from self._recovery.read_records()

    def _next_generation(self) -> int:
        try:
            if not self._directory.hold():
                # A directory in its place may hold earlier counts, for example on a disk mounted
                # late.
                self._is_recovered = False
                self._needed_generation = self._log.generation + 1
        except StartupError as error:
            raise JournalError(str(error)) from error
        # Number files likewise: without a recovery, older ones may exist.
        return max(self._log.generation, self._directory.newest_generation()) + 1

    def _is_fresh(self) -> bool:
        """Return whether the current log is sound and empty, so that a snapshot may precede it."""
        return self._log.is_empty and self._log.generation >= self._needed_generation


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    """Raise `JournalError` for errors of the operating system."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise JournalError(f"{directory} cannot be used ({reason})") from error
