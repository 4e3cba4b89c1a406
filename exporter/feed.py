"""Lets local readers see each batch that was counted, without a word from them.

nng PUB/SUB on a socket of its own beside the telemetry socket: nobody who reads there can keep a
node or the exporter waiting. A reader that is too slow loses batches, which it can tell from the
running number before each of them.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pynng

from exporter.errors import StartupError

FEED_NAME: Final = "tail.sock"
FEED_HEADER: Final = struct.Struct("<Q")
"""Before each batch: its number since the exporter's start."""
_QUEUED: Final = 64
"""Batches that wait for one reader, of at most 256 KiB each; the newest are then left out."""


class Feed:
    """Publishes batches; `open_feed` gives one.

    Args:
        socket: Listening.
    """

    def __init__(self, socket: pynng.Pub0) -> None:
        self._socket = socket
        self._number = 0

    def publish(self, batch: bytes) -> None:
        """Show a batch to whoever reads. Never waits; costs next to nothing if nobody does."""
        self._number += 1
        if self._socket.pipes:
            self._socket.send(FEED_HEADER.pack(self._number) + batch, block=False)


@contextmanager
def open_feed(runtime_dir: Path) -> Iterator[Feed]:
    """Listen for readers in a runtime directory that this exporter holds, for this user only.

    Raises:
        StartupError: The socket cannot be made.
    """
    with pynng.Pub0(send_buffer_size=_QUEUED) as socket:
        before = os.umask(0o177)  # pynng cannot be told the socket file's mode
        try:
            socket.listen(f"ipc://{runtime_dir / FEED_NAME}")
        except pynng.NNGException as error:
            message = f"{runtime_dir / FEED_NAME} cannot be listened on ({error}): remove it"
            raise StartupError(message) from error
        finally:
            os.umask(before)
        yield Feed(socket)
