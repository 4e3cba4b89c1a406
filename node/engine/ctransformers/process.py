"""Starts one engine child and exchanges messages with it: the link to ctransformers."""

import logging
import os
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Final

import msgspec
import trio
from trio.abc import ReceiveStream, SendStream

from node.engine import protocol
from shared.runtime.processes import PYTHON, open_process

_PROGRAM: Final = ("-m", "node.engine.ctransformers.child")
_LOG_LINES: Final = 20
_READ_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


class ChildProcess:
    """A running child: its process, its pipes and the last lines of its stderr."""

    def __init__(
        self,
        process: trio.Process,
        commands: SendStream,
        results: ReceiveStream,
        log: ReceiveStream,
    ) -> None:
        self._process = process
        self._commands = commands
        self._results = results
        self._log = log
        self._reader = protocol.FrameReader()
        self._sending = trio.Lock()
        self.last_lines: deque[str] = deque(maxlen=_LOG_LINES)
        self.stalled = False
        self.held_tokens: int | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def kill(self, *, stalled: bool = False) -> None:
        """Kill the child at once."""
        self.stalled = self.stalled or stalled
        self._process.kill()

    async def send(self, command: protocol.Command) -> None:
        """Write one command; `receive` notices a child that is gone."""
        try:
            async with self._sending:
                await self._commands.send_all(protocol.frame(command))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("engine child %d is gone: it accepts no command", self.pid)

    async def receive(self) -> list[protocol.Result]:
        """Wait for results. Return an empty list when the child is gone."""
        while True:
            received = await self._results.receive_some(_READ_BYTES)
            if not received:
                return []
            try:
                if frames := self._reader.feed(received):
                    return [protocol.result_decoder.decode(frame) for frame in frames]
            except (ValueError, msgspec.DecodeError) as error:
                _log.error("engine child %d sent an invalid message: %s", self.pid, error)
                return []

    async def wait_epitaph(self) -> str:
        """Wait for the end of a child whose pipe is closed. Return in one line how it ended."""
        self._process.kill()  # a child without its pipe is useless
        code = await self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"engine child {self.pid} {how}"

    async def read_log(self) -> None:
        """Keep what the child's libraries print. Runs until the child closes its stderr."""
        rest = b""
        async for received in self._log:
            *lines, rest = (rest + received).split(b"\n")
            rest = rest[-_READ_BYTES:]
            for line in lines:
                text = line.decode(errors="replace")
                self.last_lines.append(text)
                _log.debug("engine child %d: %s", self.pid, text)


@asynccontextmanager
async def open_child(program: Sequence[str] = _PROGRAM) -> AsyncIterator[ChildProcess]:
    """Run a child while the block runs.

    Args:
        program: Python's arguments; followed by the number of the descriptor for results.

    Raises:
        OSError: No descriptor, process or memory is available now; nothing is left open.
    """
    async with AsyncExitStack() as streams:
        with ExitStack() as of_child:
            commands_read, commands = _pipe_to_child(streams, of_child)
            results, results_write = _pipe_from_child(streams, of_child)
            log, log_write = _pipe_from_child(streams, of_child)
            process = await streams.enter_async_context(
                open_process(
                    [*PYTHON, *program, str(results_write)],
                    stdin=commands_read,
                    stdout=subprocess.DEVNULL,
                    stderr=log_write,
                    pass_fds=(results_write,),
                )
            )
        child = ChildProcess(process, commands, results, log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.read_log, name=f"log of engine child {process.pid}")
            try:
                yield child
            finally:
                nursery.cancel_scope.cancel()


def _pipe_to_child(streams: AsyncExitStack, of_child: ExitStack) -> tuple[int, SendStream]:
    read_end, write_end = os.pipe()
    of_child.callback(os.close, read_end)
    stream = trio.lowlevel.FdStream(write_end)
    streams.push_async_callback(trio.aclose_forcefully, stream)
    return read_end, stream


def _pipe_from_child(streams: AsyncExitStack, of_child: ExitStack) -> tuple[ReceiveStream, int]:
    read_end, write_end = os.pipe()
    of_child.callback(os.close, write_end)
    stream = trio.lowlevel.FdStream(read_end)
    streams.push_async_callback(trio.aclose_forcefully, stream)
    return stream, write_end
