"""Shows local readers each batch that was counted; the readers never send anything.

nng PUB/SUB on its own socket beside the telemetry socket, so that no reader can delay a node or the
exporter. A reader that is too slow loses batches, which it can detect from the sequence number in
front of each batch.
"""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pynng

from exporter.errors import StartupError
from exporter.ingest.socket_file import find_inode, for_this_user_only, wait_removed
from shared.repeats import Repeats

FEED_NAME: Final = "tail.sock"
FEED_HEADER: Final = struct.Struct("<Q")
"""In front of each batch: its number since the exporter's start."""
_QUEUED: Final = 64
"""Batches that wait for one reader, of at most 256 KiB each. When the queue is full, new ones are
dropped."""

_log = logging.getLogger(__name__)


class Feed:
    """Publishes batches; `open_feed` yields one.

    Args:
        socket: A socket that is not yet listening.
        path: Where to listen.
    """

    def __init__(self, socket: pynng.Pub0, path: Path) -> None:
        self._socket = socket
        self._path = path
        self._number = 0
        self._inode = -1
        self._repeats = Repeats(_log)
        self._listen()

    def publish(self, batch: bytes) -> None:
        """Publish a batch to all readers. Never waits; costs next to nothing without readers."""
        self._number += 1
        if self._socket.pipes:
            self._socket.send(FEED_HEADER.pack(self._number) + batch, block=False)

    async def keep_path(self) -> None:
        """Listen again when the socket's file was removed. Runs until cancelled.

        Attached readers lose their connection and dial again. The telemetry socket recreates the
        directory itself, because it knows who may enter.
        """
        while True:
            await wait_removed(self._path, self._inode)
            self._repeats.note("%s was removed: listening again", self._path)
            for listener in self._socket.listeners:
                listener.close()
            try:
                self._listen()
            except StartupError as error:
                self._repeats.note("no reader can attach: %s", error, level=logging.ERROR)

    def _listen(self) -> None:
        try:
            with for_this_user_only():
                self._socket.listen(f"ipc://{self._path}")
        except pynng.NNGException as error:
            message = f"{self._path} cannot be listened on ({error}): remove it"
            raise StartupError(message) from error
        self._inode = find_inode(self._path)


@contextmanager
def open_feed(runtime_dir: Path) -> Iterator[Feed]:
    """Listen for readers in a runtime directory that this exporter holds, for this user only.

    Raises:
        StartupError: The socket cannot be created.
    """
    with pynng.Pub0(send_buffer_size=_QUEUED) as socket:
        yield Feed(socket, runtime_dir / FEED_NAME)
