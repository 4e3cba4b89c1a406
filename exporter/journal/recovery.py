"""Read and repair what a crash left in the state directory, moving damaged parts to quarantine."""

import errno
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from exporter.journal.quarantine import Quarantine
from exporter.journal.records import (
    RECORD_HEADER,
    FormatError,
    LogReader,
    log_generations,
    log_path,
    pack_skipped_header,
    read_snapshot,
    snapshot_generations,
    snapshot_path,
)

NOTE_NAME: Final = "applying"
CRASHES: Final = 2
"""Consecutive starts that may end while applying the same record; the next one skips it."""

_log = logging.getLogger(__name__)


class Recovery:
    """Find the newest readable snapshot and read the records after it.

    Args:
        directory: The state directory, locked.
        quarantine: Takes what cannot be used.
    """

    def __init__(self, directory: Path, quarantine: Quarantine) -> None:
        self.snapshot_generation = 0
        """Generation of the snapshot that `read_snapshot` returned, 0 for none."""
        self.log_generation = 0
        """Generation of the last log that was read to its end and can be appended to, 0 for none.
        """
        self.records = 0
        """Records returned so far."""
        self.cut_bytes = 0
        """Bytes of logs that were unusable."""
        self.is_done = False
        """Whether every record was returned and, if the caller applies them in its loop, applied.
        """
        self._directory = directory
        self._quarantine = quarantine
        self._rejected: set[int] = set()

    def read_snapshot(self) -> bytes | None:
        """Return the newest readable snapshot; unreadable ones move to quarantine.

        Raises:
            OSError: The directory or a file cannot be read or changed.
        """
        generations = set(snapshot_generations(self._directory)) - self._rejected
        for self.snapshot_generation in sorted(generations, reverse=True):
            try:
                return read_snapshot(snapshot_path(self._directory, self.snapshot_generation))
            except FormatError as error:
                _log.warning("%s: going on without it", error)
                self.reject_snapshot()
        self.snapshot_generation = 0
        return None

    def reject_snapshot(self) -> None:
        """Move the returned snapshot to quarantine, so that it is not returned again."""
        self._rejected.add(self.snapshot_generation)
        path = snapshot_path(self._directory, self.snapshot_generation)
        self._quarantine.move("snapshot", path)

    def close(self) -> None:
        """Note that this start succeeded.

        Raises:
            OSError: The note cannot be removed.
        """
        (self._directory / NOTE_NAME).unlink(missing_ok=True)

    def read_records(self) -> Iterator[bytes]:
        """Yield the payloads after the snapshot in order, repairing the logs on the way.

        A record that ended `CRASHES` starts in a row is copied to quarantine and then skipped.

        Raises:
            OSError: The directory or a file cannot be read or changed.
        """
        note = _Note(self._directory / NOTE_NAME)
        try:
            for generation in log_generations(self._directory):
                if generation >= self.snapshot_generation:
                    yield from self._read_log(generation, note)
            note.clear()
        finally:
            note.close()
        self.is_done = True

    def _read_log(self, generation: int, note: "_Note") -> Iterator[bytes]:
        path = log_path(self._directory, generation)
        with _open_log(path) as file:
            size = os.fstat(file.fileno()).st_size
            try:
                reader = LogReader(path, file)
            except FormatError as error:
                self._reject_log(path, size, error)
                return
            for offset, payload in reader:
                if note.begin(generation, offset):
                    self.records += 1
                    yield payload
                else:
                    self._skip(path, file, offset, payload)
            if reader.good_bytes < size:
                self._cut(path, file, reader.good_bytes, size)
            if file.writable():
                self.log_generation = generation

    def _reject_log(self, path: Path, size: int, error: FormatError) -> None:
        if size == 0:  # the exporter was killed between making the file and writing its header
            path.unlink()
            return
        _log.warning("%s: going on without it", error)
        self._quarantine.move("log", path)
        self.cut_bytes += size

    def _cut(self, path: Path, file: FileIO, good_bytes: int, size: int) -> None:
        tail_bytes = size - good_bytes
        _log.warning("%s is damaged from byte %d: cutting %d bytes", path, good_bytes, tail_bytes)
        name = f"{path.name}.tail-{good_bytes}"
        self._quarantine.copy("tail", name, file, good_bytes, tail_bytes)
        if file.writable():
            os.truncate(file.fileno(), good_bytes)
        self.cut_bytes += tail_bytes

    def _skip(self, path: Path, file: FileIO, offset: int, payload: bytes) -> None:
        _log.error("%s: the record at byte %d crashed the exporter: skipping it", path, offset)
        size = RECORD_HEADER.size + len(payload)
        self._quarantine.copy("poison", f"{path.name}.record-{offset}", file, offset, size)
        if file.writable():
            os.pwrite(file.fileno(), pack_skipped_header(payload), offset)


def _open_log(path: Path) -> FileIO:
    """Open a log to repair it, or to read it where nothing can be written."""
    try:
        return path.open("r+b", buffering=0)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return path.open("rb", buffering=0)


class _Note:
    """The note of which record is being applied; one left over means a crash in recovery.

    A mapped file, which outlives the process and costs no system call for each record. Recovery
    continues if the note cannot be written.
    """

    _LAYOUT: Final = struct.Struct("<QQI")  # generation, offset, crashes in a row

    def __init__(self, path: Path) -> None:
        self._suspect = (0, 0, 0)
        self._map: mmap.mmap | None = None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("%s cannot be used (%s)", path, error.strerror)
            return
        try:
            noted = os.pread(descriptor, self._LAYOUT.size, 0).ljust(self._LAYOUT.size, b"\0")
            # Before mapping it: a page without room on the disk would end the process by a signal.
            os.pwrite(descriptor, noted, 0)
            self._map = mmap.mmap(descriptor, self._LAYOUT.size)
            self._suspect = self._LAYOUT.unpack(noted)
        except (OSError, ValueError) as error:  # the latter where nothing could be written
            _log.warning("%s cannot be used (%s)", path, error)
        finally:
            os.close(descriptor)

    def begin(self, generation: int, offset: int) -> bool:
        """Note that a record is about to be applied; return False if it crashed too often."""
        crashes = self._suspect[2] if self._suspect[:2] == (generation, offset) else 0
        if crashes >= CRASHES:
            return False
        self._write(generation, offset, crashes + 1)
        return True

    def clear(self) -> None:
        """Note that every record is applied: a crash from now on was not caused by one."""
        self._write(0, 0, 0)

    def close(self) -> None:
        if self._map is not None:
            self._map.close()

    def _write(self, generation: int, offset: int, crashes: int) -> None:
        if self._map is not None:
            self._LAYOUT.pack_into(self._map, 0, generation, offset, crashes)
