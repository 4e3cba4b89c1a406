"""An engine child in memory: real engine and real frames, with results that the test chooses."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
import trio.testing

from node.engine import protocol
from node.engine.ctransformers.process import ChildProcess
from node.engine.options import EngineOptions
from node.requests.request import EndReason

CONTEXT_LENGTH: Final = 64
STALL_SECONDS: Final = 30.0
DESCRIBED: Final = protocol.Described(
    "ctransformers", "llama", "Q8_0", 2**20, 8, CONTEXT_LENGTH, 2**10, "f1"
)


class _Process:
    """The part of a process that `ChildProcess` uses."""

    def __init__(self, pid: int, died: Callable[[], None]) -> None:
        self.pid = pid
        self._died = died
        self._ended = trio.Event()
        self.code = 0

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        self.end(-9)

    def end(self, code: int) -> None:
        """End it as it would end by itself."""
        if not self._ended.is_set():
            self.code = code
            self._ended.set()
            self._died()

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return self._ended.is_set()

    async def wait(self) -> int:
        """Wait for its end."""
        await self._ended.wait()
        return self.code


class MemoryChild:
    """The child's end of the pipes."""

    def __init__(self, pid: int) -> None:
        to_child, self._commands = trio.testing.memory_stream_one_way_pair()
        self._results, from_child = trio.testing.memory_stream_one_way_pair()
        self._log, log = trio.testing.memory_stream_one_way_pair()
        self._reader = protocol.FrameReader()
        self._waiting: list[protocol.Command] = []
        self._process = _Process(pid, self._close)
        process: Any = self._process
        self.node_side = ChildProcess(process, to_child, from_child, log)

    async def hear(self) -> protocol.Command:
        """Wait for the node's next command."""
        while not self._waiting:
            frames = self._reader.feed(await self._commands.receive_some())
            self._waiting += map(protocol.command_decoder.decode, frames)
        return self._waiting.pop(0)

    async def hear_generate(self) -> int:
        """Wait for the next command, which must be a request, and return its name."""
        command = await self.hear()
        assert isinstance(command, protocol.Generate), command
        return command.request

    async def hear_cancel(self) -> int:
        """Wait for the next command, which must be a cancel, and return its request's name."""
        command = await self.hear()
        assert isinstance(command, protocol.Cancel), command
        return command.request

    async def say(self, *results: protocol.Result) -> None:
        """Write results, and wait until the node has handled them."""
        await self._results.send_all(b"".join(map(protocol.frame, results)))
        await trio.testing.wait_all_tasks_blocked()

    async def say_tokens(self, request: int, *pieces: str) -> None:
        """Report that a short prompt was evaluated and these tokens were drawn."""
        sampled = [protocol.Sampled(request, len(piece), piece.encode()) for piece in pieces]
        await self.say(protocol.Evaluated(request, 3, 3, 1), *sampled)

    async def finish(self, request: int, reason: EndReason = "stop") -> None:
        """Report that a request is over."""
        await self.say(protocol.Finished(request, reason, ""))

    async def load(self, slots: int = 1) -> None:
        """Report that the model is loaded."""
        assert isinstance(await self.hear(), protocol.Load)
        await self.say(protocol.Read(2**19, 2**20), protocol.Loaded(CONTEXT_LENGTH, slots))

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended, by itself or through the node."""
        return self._process.has_ended

    def die(self, code: int = -11) -> None:
        """Crash."""
        self._process.end(code)

    def _close(self) -> None:
        for stream in (self._results, self._commands, self._log):
            stream.close()


class Children:
    """The children that an engine starts, in order."""

    def __init__(self) -> None:
        self.described = DESCRIBED
        """What the model's file says of itself."""
        self.unreadable = 0
        """How often more the file's reader is killed."""
        self._send, self._receive = trio.open_memory_channel[MemoryChild](math.inf)
        self.started = 0
        """How many were started."""

    async def next(self) -> MemoryChild:
        """Wait until the engine starts a child."""
        return await self._receive.receive()

    @property
    def options(self) -> EngineOptions:
        """Options of an engine that starts these children."""
        return EngineOptions(
            place="/m.gguf",
            locate=self._locate,
            describe=self._describe,
            open_link=self._open_link,
            threads=1,
            batch_tokens={"ctransformers": 16},
            load_seconds=600.0,
            stall_seconds=STALL_SECONDS,
        )

    async def _locate(self) -> Path:
        await trio.lowlevel.checkpoint()
        return Path("/m.gguf")

    async def _describe(self, path: Path) -> protocol.Described:
        del path
        await trio.lowlevel.checkpoint()
        if self.unreadable:
            self.unreadable -= 1
            raise OSError("the reader was killed")
        return self.described

    @asynccontextmanager
    async def _open_link(self, engine: protocol.EngineName) -> AsyncIterator[ChildProcess]:
        assert engine == self.described.engine
        self.started += 1
        child = MemoryChild(self.started)
        self._send.send_nowait(child)
        try:
            yield child.node_side
        finally:
            child.die(-9)
