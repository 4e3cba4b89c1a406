"""A lock file that names its holder."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from exporter.errors import StartupError


def lock_file(path: Path, what: str, remedy: str) -> int:
    """Lock a file for as long as the returned descriptor is open, at most until the process ends.

    Args:
        path: Made if it is missing.
        what: What the holder does there, for the message.
        remedy: What else to do than to stop it.

    Raises:
        StartupError: Another exporter holds it.
        OSError: It cannot be made or written.
    """
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        message = f"another exporter (process {owner}) {what} {path.parent}: stop it or {remedy}"
        raise StartupError(message) from error
    with contextlib.suppress(OSError):  # a full disk can hold a lock, though not its owner's number
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        # A readable directory can be recovered; the lock needs no more.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
