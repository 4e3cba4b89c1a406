"""The path of a llama-server's socket, in the node's runtime directory if the node may write it."""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "ll-"
_SUFFIX: Final = ".sock"
"""By this, llama-server knows that its address is a path."""
_STALE_SECONDS: Final = 60.0
"""A younger socket may be about to listen; a guess."""


def writable_directory(runtime: Path, state: Path) -> Path:
    """Return the runtime directory, or the state directory if the node cannot make files there.

    Where node and exporter are two users, the runtime directory is the exporter's, and the node
    may only connect to the socket in it.
    """
    existing = next(place for place in (runtime, *runtime.parents) if place.exists())
    return runtime if os.access(existing, os.W_OK) else state


@contextlib.contextmanager
def open_socket_path(directory: Path) -> Iterator[Path]:
    """Yield the path for a new socket and remove the socket afterwards.

    Its name is no longer than that of the telemetry socket, for which `Settings.check` makes sure
    that the path fits. Sockets that a killed node left behind are removed first.

    Raises:
        OSError: The directory cannot be created.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            _remove_stale(path)
    path = directory / f"{_PREFIX}{secrets.token_hex(3)}{_SUFFIX}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    if not path.is_socket() or path.stat().st_mtime > time.time() - _STALE_SECONDS:
        return
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:  # no process listens
            path.unlink()
