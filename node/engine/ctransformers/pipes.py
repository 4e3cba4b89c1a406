"""The two pipes between the engine child and its node, in the child. Blocking, one thread."""

import os
import select
from collections import deque
from typing import Final

from node.engine import protocol
from node.engine.protocol import Cancel, Command

_COMMANDS: Final = 0
_READ_BYTES: Final = 64 * 1024


class Pipes:
    """The child's ends: it reads commands and writes results."""

    def __init__(self, results: int) -> None:
        self._results = results
        self._reader = protocol.FrameReader()
        self._waiting: deque[Command] = deque()

    def receive(self) -> Command:
        """Wait for the next command.

        Raises:
            EOFError: The node is gone.
        """
        while not self._waiting:
            self._read()
        return self._waiting.popleft()

    def send(self, result: protocol.Result) -> None:
        """Write one result. Waits while the pipe is full.

        Raises:
            BrokenPipeError: The node is gone.
        """
        unsent = memoryview(protocol.frame(result))
        while unsent:
            unsent = unsent[os.write(self._results, unsent) :]

    def cancelled(self, request: int) -> bool:
        """Return, without waiting, whether the node has cancelled the request."""
        while select.select([_COMMANDS], [], [], 0)[0]:
            self._read()
        return any(isinstance(c, Cancel) and c.request == request for c in self._waiting)

    def forget_cancels(self) -> None:
        """Drop cancels of requests that have ended."""
        self._waiting = deque(c for c in self._waiting if not isinstance(c, Cancel))

    def _read(self) -> None:
        received = os.read(_COMMANDS, _READ_BYTES)
        if not received:
            raise EOFError
        frames = self._reader.feed(received)
        self._waiting.extend(map(protocol.command_decoder.decode, frames))
