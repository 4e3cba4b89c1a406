"""Runs a node whose engine is a stand-in that emits tokens at a given rate.

The stand-in lives in the node's process and costs it next to nothing: what remains is the path of a
token from the engine's results to the connection. Arguments: the node's, then tokens per second.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

import node.lanes
from node.__main__ import main
from node.engine import protocol

SLOTS: Final = 8
_WORDS: Final = (b" once", b" upon", b" a", b" time", b" there", b" was", b" the", b" fox")


class EmittingLink:
    """An engine that draws a token for each of its requests at every step.

    Steps are due by the clock. Those that a busy node has not read come together, as from a pipe.

    Args:
        tokens_per_second: Of all requests together.
    """

    pid: Final = 0
    last_lines: Final = ()
    held_tokens: Final = None
    stalled = False

    def __init__(self, tokens_per_second: float) -> None:
        self._tokens_per_second = tokens_per_second
        self._due = 0.0
        self._left: dict[int, int] = {}
        self._results: list[protocol.Result] = []
        self._changed = trio.Event()

    def kill(self, *, stalled: bool = False) -> None:
        """Do nothing: it never hangs."""

    async def send(self, command: protocol.Command) -> None:
        """Begin or end a request."""
        match command:
            case protocol.Load():
                self._results.append(protocol.Loaded(4096, SLOTS))
            case protocol.Generate(request=request, max_tokens=tokens):
                self._left[request] = tokens
                self._due = max(self._due, trio.current_time())
                self._results.append(protocol.Evaluated(request, 4, 4, 0))
            case protocol.Cancel(request=request):
                if self._left.pop(request, 0):
                    self._results.append(protocol.Finished(request, "cancelled", ""))
        self._changed.set()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> list[protocol.Result]:
        """Wait for the next results."""
        while not (self._results or self._left):
            self._changed = trio.Event()
            await self._changed.wait()
        if not self._results:
            await trio.sleep_until(self._due)
        while self._left and trio.current_time() >= self._due:
            self._step()
        results, self._results = self._results, []
        await trio.lowlevel.checkpoint()
        return results

    async def wait_epitaph(self) -> str:
        """Return how it ended."""
        return "the stand-in ended"

    def _step(self) -> None:
        self._due += len(self._left) / self._tokens_per_second
        for request, left in list(self._left.items()):
            self._results.append(protocol.Sampled(request, left, _WORDS[left % len(_WORDS)]))
            self._left[request] -= 1
            if left == 1:
                del self._left[request]
                self._results.append(protocol.Finished(request, "length", ""))


def run(tokens_per_second: float) -> None:
    """Run the node with the remaining arguments."""

    @asynccontextmanager
    async def open_link() -> AsyncIterator[EmittingLink]:
        yield EmittingLink(tokens_per_second)

    lanes: Any = node.lanes
    lanes.open_child = open_link
    main()


if __name__ == "__main__":
    run(float(sys.argv.pop()))
