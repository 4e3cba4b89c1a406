"""The exporter's state directory: its lock, its generations, and atomically written snapshots."""

import os
from pathlib import Path
from typing import Final

from exporter.journal.lock import lock_file
from exporter.journal.records import (
    log_generations,
    log_path,
    pack_snapshot_header,
    snapshot_generations,
    snapshot_path,
)

_LOCK_NAME: Final = "state.lock"
_PARTIAL: Final = ".tmp"


class StateDirectory:
    """A directory that one exporter at a time may use.

    Args:
        path: Made if it is missing, for this user only.

    Raises:
        StartupError: Another exporter holds it.
        OSError: It cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)

    def close(self) -> None:
        """Release the directory."""
        os.close(self._lock)

    def hold(self) -> bool:
        """Lock the directory again if it was deleted or replaced; return False if it was.

        Raises:
            StartupError: Another exporter was quicker.
            OSError: It cannot be made or written.
        """
        if is_in_place(self.path / _LOCK_NAME, self._lock):
            return True
        lock = _lock(self.path)
        os.close(self._lock)
        self._lock = lock
        return False

    def newest_generation(self) -> int:
        """Return the highest generation of any log or snapshot, 0 for none."""
        return max(log_generations(self.path) + snapshot_generations(self.path), default=0)

    def logs_bytes(self, generation: int) -> int:
        """Return the total size of the logs before a generation."""
        logs = [log_path(self.path, n) for n in log_generations(self.path) if n < generation]
        return sum(path.stat().st_size for path in logs)

    def write_snapshot(self, generation: int, payload: bytes) -> None:
        """Write a snapshot completely and durably, or not at all."""
        path = snapshot_path(self.path, generation)
        partial = path.with_name(path.name + _PARTIAL)
        try:
            with partial.open("wb") as file:
                file.write(pack_snapshot_header(payload))
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._sync()

    def forget_before(self, generation: int) -> None:
        """Delete the files that a generation's snapshot replaces, and incomplete snapshots.

        Logs go first: a snapshot is useful without its log, a log hardly without its snapshot.
        """
        logs = [log_path(self.path, n) for n in log_generations(self.path) if n < generation]
        snapshots = [n for n in snapshot_generations(self.path) if n < generation]
        partial = list(self.path.glob(f"snapshot-*{_PARTIAL}"))
        for path in (*logs, *(snapshot_path(self.path, n) for n in snapshots), *partial):
            path.unlink(missing_ok=True)

    def _sync(self) -> None:
        """Make renames survive a power cut."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_in_place(path: Path, descriptor: int) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _lock(directory: Path) -> int:
    """Lock the directory for as long as the returned descriptor is open."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return lock_file(directory / _LOCK_NAME, "keeps its state in", "choose another --state-dir")
