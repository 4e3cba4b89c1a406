"""Appends records to one log of the journal."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from exporter.journal.records import pack_log_header, pack_record
from exporter.journal.state_directory import is_in_place

CHECK_SECONDS: Final = 1.0
"""How often an append checks that the file is still in place."""


class LogWriter:
    """A log open for appending.

    Args:
        path: Of a log that ends with a whole record.

    Raises:
        OSError: The log cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit_bytes = 0
        """The log does not grow beyond this."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.size_bytes = os.fstat(self._descriptor).st_size
        self._checked_at = time.monotonic()

    def append(self, payload: bytes) -> None:
        """Append one record with one system call, completely or not at all.

        Raises:
            OSError: The file cannot be written, is full or is gone.
            ValueError: The payload is too long for a record.
        """
        record = pack_record(payload)
        if self.size_bytes + len(record) > self.limit_bytes:
            raise OSError(errno.EDQUOT, "the logs are at their limit")
        if time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._check()
        try:
            written = os.write(self._descriptor, record)
        except OSError:
            self._restore()
            raise
        if written < len(record):
            self._restore()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size_bytes += written

    def sync(self) -> None:
        """Sync the appended records to disk. Blocks.

        Raises:
            OSError: The records may be lost in a power failure.
        """
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file without syncing it."""
        os.close(self._descriptor)

    def _check(self) -> None:
        if not is_in_place(self.path, self._descriptor):
            raise OSError(errno.ESTALE, "it was deleted or replaced")
        self._checked_at = time.monotonic()

    def _restore(self) -> None:
        """Cut off the remains of a failed write, so that recovery finds no damage."""
        with suppress(OSError):
            if os.fstat(self._descriptor).st_size > self.size_bytes:
                os.ftruncate(self._descriptor, self.size_bytes)


def start_log(path: Path) -> LogWriter:
    """Create a log.

    Raises:
        OSError: It cannot be created; nothing is left of it.
    """
    try:
        with path.open("xb") as file:
            file.write(pack_log_header())
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return LogWriter(path)
