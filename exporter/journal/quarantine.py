"""Keep damaged or dangerous pieces of the journal for a person to inspect, in bounded space."""

import logging
import os
from collections import Counter
from io import FileIO
from pathlib import Path
from typing import Final

FILES: Final = 16
BYTES: Final = 64 * 1024 * 1024
"""Limits of the quarantine together with `FILES`; the oldest file goes first."""

_log = logging.getLogger(__name__)


class Quarantine:
    """A directory of at most `FILES` files and `BYTES` bytes.

    Args:
        directory: Made when it is first needed.
    """

    def __init__(self, directory: Path) -> None:
        self.counts: Counter[str] = Counter()
        """Pieces quarantined since the start by kind, including those that could not be kept."""
        self._directory = directory

    def move(self, kind: str, path: Path) -> None:
        """Move a whole file here; of a file larger than `BYTES` only the start is kept.

        Where that is impossible the file stays, which is logged: damage that cannot be tidied away
        must not keep the rest from being recovered.
        """
        self.counts[kind] += 1
        try:
            size = min(path.stat().st_size, BYTES)
            target = path.rename(self._make_room(path.name, size))
            if target.stat().st_size > size:
                os.truncate(target, size)
            _log.warning("%s was moved to %s", path, target)
        except OSError as error:
            _log.warning("%s could not be moved to quarantine (%s)", path, error.strerror)

    def copy(self, kind: str, name: str, source: FileIO, offset: int, size: int) -> None:
        """Copy part of a file here, at most its first `BYTES` bytes; a failure is logged."""
        self.counts[kind] += 1
        try:
            target = self._make_room(name, min(size, BYTES))
            _copy(source, target, offset, min(size, BYTES))
            _log.warning("%d bytes were copied to %s", size, target)
        except OSError as error:
            _log.warning("%s could not be copied to quarantine (%s)", name, error.strerror)

    def _make_room(self, name: str, size: int) -> Path:
        """Remove old files until one of `size` bytes fits, and return its path."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        # Numbered, because neither clocks nor the times of moved files give the order.
        files = sorted(self._directory.iterdir())
        number = max((_number(path) for path in files), default=0) + 1
        sizes = [path.stat().st_size for path in files]
        while files and (len(files) >= FILES or sum(sizes) + size > BYTES):
            files.pop(0).unlink()
            del sizes[0]
        return self._directory / f"{number:08d}-{name}"


def _number(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _copy(source: FileIO, target: Path, offset: int, size: int) -> None:
    with target.open("xb", buffering=0) as file:
        while size > 0:
            # In the kernel: tens of megabytes would count against a sidecar's memory limit.
            sent = os.sendfile(file.fileno(), source.fileno(), offset, size)
            if sent == 0:
                return
            offset += sent
            size -= sent
