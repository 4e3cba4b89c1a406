"""The socket on which a process reports that it is ready and alive (sd_notify(3))."""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import trio

from node.errors import StartupError
from shared.wire import SOCKET_PATH_BYTES

_PREFIX: Final = "distributed-llm-agent-"
_FALLBACKS: Final = ("/tmp", "/dev/shm")  # noqa: S108 - only private directories are made there
"""Used if `TMPDIR` is too long for a socket's path or cannot be written."""
_STALE_SECONDS: Final = 60.0
"""A younger directory may be about to be locked; a guess."""


class Notifications(NamedTuple):
    """Where to send notifications, and the socket that receives them."""

    path: Path
    receiver: trio.socket.SocketType


@contextlib.contextmanager
def open_notifications() -> Iterator[Notifications]:
    """Listen in a new private directory, for this user only.

    Raises:
        OSError: No socket can be created.
    """
    with _make_directory() as directory, _locked(directory):
        path = Path(directory, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(str(path))
            yield Notifications(path, trio.socket.from_stdlib_socket(bound))


def prepare() -> None:
    """Remove the leftovers of killed agents, and check that sockets can be created.

    Raises:
        StartupError: No socket can be created.
    """
    for parent in _parents():
        for directory in Path(parent).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_stale(directory)
    try:
        with open_notifications():
            pass
    except OSError as error:
        message = f"cannot create a socket in {_parents()[0]} ({error}): set TMPDIR to a directory"
        raise StartupError(message) from error


def _parents() -> list[str]:
    try:
        return [tempfile.gettempdir(), *_FALLBACKS]
    except FileNotFoundError:  # it requires a writable directory
        return [os.environ.get("TMPDIR", _FALLBACKS[0]), *_FALLBACKS]


def _make_directory() -> "tempfile.TemporaryDirectory[str]":
    failure = OSError("its path is too long")
    for parent in _parents():
        try:
            made = tempfile.TemporaryDirectory(
                prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            failure = error
            continue
        if len(os.fsencode(made.name)) + len("/notify") <= SOCKET_PATH_BYTES:
            return made
        made.cleanup()
    raise failure


@contextlib.contextmanager
def _locked(directory: str | Path) -> Iterator[None]:
    """Lock a directory, which marks its agent as alive.

    Raises:
        BlockingIOError: Another process holds the lock.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_stale(directory: Path) -> None:
    status = directory.lstat()
    if status.st_uid == os.getuid() and status.st_mtime < time.time() - _STALE_SECONDS:
        with _locked(directory):
            shutil.rmtree(directory)
