"""An engine's child that takes no time: it emits tokens at a given rate, eight requests at once.

It speaks the protocol of `node.engine.ctransformers.child`. Arguments: tokens per second of all
requests together, and the descriptor for its results.
"""

import os
import select
import sys
import time
from typing import Final

from node.engine import protocol

SLOTS: Final = 8
_COMMANDS: Final = 0
_READ_BYTES: Final = 64 * 1024
_WORDS: Final = (b" once", b" upon", b" a", b" time", b" there", b" was", b" the", b" fox")


class EmittingEngine:
    """Draws a token for each of its requests at every step. Steps are due by the clock.

    Args:
        tokens_per_second: Of all requests together.
        results: The descriptor for the results.
    """

    def __init__(self, tokens_per_second: float, results: int) -> None:
        self._tokens_per_second = tokens_per_second
        self._results = results
        self._reader = protocol.FrameReader()
        self._due = 0.0
        self._left: dict[int, int] = {}

    def run(self) -> None:
        """Serve the node until it is gone."""
        while True:
            wait_seconds = max(0.0, self._due - time.monotonic()) if self._left else None
            if select.select([_COMMANDS], [], [], wait_seconds)[0]:
                received = os.read(_COMMANDS, _READ_BYTES)
                if not received:
                    return
                for frame in self._reader.feed(received):
                    self._take(protocol.command_decoder.decode(frame))
            else:
                self._step()

    def _take(self, command: protocol.Command) -> None:
        match command:
            case protocol.Load():
                self._send([protocol.Loaded(4096, SLOTS)])
            case protocol.Generate(request=request, max_tokens=tokens):
                self._left[request] = tokens
                self._due = max(self._due, time.monotonic())
                self._send([protocol.Evaluated(request, 4, 4, 0)])
            case protocol.Cancel(request=request) if self._left.pop(request, 0):
                self._send([protocol.Finished(request, "cancelled", "")])

    def _step(self) -> None:
        self._due += len(self._left) / self._tokens_per_second
        drawn: list[protocol.Result] = []
        for request, left in list(self._left.items()):
            drawn.append(protocol.Sampled(request, left, _WORDS[left % len(_WORDS)]))
            self._left[request] -= 1
            if left == 1:
                del self._left[request]
                drawn.append(protocol.Finished(request, "length", ""))
        self._send(drawn)

    def _send(self, results: list[protocol.Result]) -> None:
        unsent = memoryview(b"".join(map(protocol.frame, results)))
        while unsent:
            unsent = unsent[os.write(self._results, unsent) :]


if __name__ == "__main__":
    EmittingEngine(float(sys.argv[1]), int(sys.argv[2])).run()
