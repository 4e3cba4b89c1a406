"""What the node needs of an engine: a process that takes commands and returns results."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from node.engine.place import Place
from node.engine.protocol import Command, EngineName, Result


class Link(Protocol):
    """One running engine process with one model, from its `Load` to its end."""

    stalled: bool
    """Whether it was killed because it made no progress."""
    held_tokens: int | None
    """Tokens in all slots, including those kept for later prompts; None if unknown."""

    @property
    def pid(self) -> int:
        """The process id; 0 before the process has started."""

    @property
    def last_lines(self) -> Sequence[str]:
        """The last lines of its log."""

    def kill(self, *, stalled: bool = False) -> None:
        """Kill the process at once."""

    async def send(self, command: Command) -> None:
        """Pass a command to the engine; `receive` notices an engine that is gone."""

    async def receive(self) -> list[Result]:
        """Wait for results. Return an empty list when the engine is gone.

        Results are progress: an engine that hangs returns none.
        """

    async def wait_epitaph(self) -> str:
        """Wait for the end of an engine that is gone. Return in one line how it ended."""


async def receive_waiting(channel: trio.MemoryReceiveChannel[list[Result]]) -> list[Result]:
    """Wait for results and return all that wait. Return an empty list when no more can come."""
    results: list[Result] = []
    with contextlib.suppress(trio.EndOfChannel, trio.WouldBlock):
        results = await channel.receive()
        while True:
            results += channel.receive_nowait()
    return results


OpenLink = Callable[[EngineName], AbstractAsyncContextManager[Link]]
"""Starts an engine process, which ends with the block. Raises OSError if none can be started."""

OpenPipeline = Callable[[Place], AbstractAsyncContextManager[Link]]
"""Starts an engine whose layers are on several nodes, like `OpenLink`. Raises `UnavailableError` if
a node does not take its stage."""
