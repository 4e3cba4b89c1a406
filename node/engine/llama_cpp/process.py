"""Starts one llama-server and exchanges the engine's messages with it.

The commands and results are those of `node.engine.protocol`. Each request is a task with a
connection of its own; closing the connection makes the server stop.
"""

import contextlib
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from trio.abc import ReceiveStream

from node.engine import protocol
from node.engine.link import receive_waiting
from node.engine.llama_cpp import log
from node.engine.llama_cpp.answer import LoadedModel
from node.engine.llama_cpp.connection import call
from node.engine.llama_cpp.errors import EngineLostError
from node.engine.llama_cpp.options import LlamaOptions, command, environment
from node.engine.llama_cpp.replies import Properties, decode
from node.engine.llama_cpp.slots import watch_held
from node.engine.llama_cpp.socket_path import open_socket_path
from node.engine.protocol import (
    Cancel,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Result,
    Tokenize,
)
from shared.paths import readable
from shared.runtime.processes import open_process

_LOG_LINES: Final = 20
_LINE_BYTES: Final = 64 * 1024
_WAITING: Final = 64
"""Lists of results that may wait for the supervisor. While there are more, the streams wait, and
with them the slots."""
_POLL_SECONDS: Final = 0.02
_LOG_SECONDS: Final = 0.5
"""How long the log may lag behind the server or its end."""

_log = logging.getLogger(__name__)


class LlamaServer:
    """One llama-server. It starts with the command `Load` and holds one model until it ends.

    Args:
        nursery: Runs the tasks of the process.
        options: How to run the server.
        socket: The path where it must listen.
    """

    def __init__(self, nursery: trio.Nursery, options: LlamaOptions, socket: Path) -> None:
        self.last_lines: deque[str] = deque(maxlen=_LOG_LINES)
        self.stalled = False
        self.held_tokens: int | None = None
        self._nursery = nursery
        self._options = options
        self._socket = socket
        self._results, self._received = trio.open_memory_channel[list[Result]](_WAITING)
        self._process: trio.Process | None = None
        self._model: LoadedModel | None = None
        self._scopes: dict[int, trio.CancelScope] = {}
        """The running requests."""
        self._has_begun = False
        """Whether a request has begun since `_has_worked` was called."""
        self._memory = log.Memory(options.device_names)
        self._log_settled = trio.Event()
        """Set when the log has reported the whole load, or has ended."""
        self._is_settled = False
        """Whether the load has been reported."""
        self._epitaph = "llama-server was not started"
        self._ended = trio.Event()
        """Set while there is no process and none will follow."""
        self._ended.set()

    @property
    def pid(self) -> int:
        """The process id; 0 before the process is started."""
        return self._process.pid if self._process else 0

    def kill(self, *, stalled: bool = False) -> None:
        """Kill the server at once."""
        self.stalled = self.stalled or stalled
        if self._process is not None:
            self._process.kill()

    async def send(self, command: protocol.Command) -> None:
        """Begin what a command requests; `receive` returns the results."""
        await trio.lowlevel.checkpoint()
        match command:
            case Load():
                self._ended = trio.Event()
                self._nursery.start_soon(self._run, command, name=f"engine of {self._name}")
            case Generate(request) | Tokenize(request):
                self._scopes[request] = trio.CancelScope()
                self._has_begun = True
                name = f"request {request} of {self._name}"
                self._nursery.start_soon(self._answer, command, name=name)
            case Cancel(request) if request in self._scopes:
                self._scopes[request].cancel()

    async def receive(self) -> list[Result]:
        """Wait for results. Return an empty list when the server is gone."""
        return await receive_waiting(self._received)

    async def wait_epitaph(self) -> str:
        """Wait for the end of a server that sends no results. Return in one line how it ended."""
        self.kill()  # a server that broke off is useless
        await self._ended.wait()
        return self._epitaph

    @property
    def _name(self) -> str:
        return self._options.model_id

    async def _run(self, load: Load) -> None:
        """Run the process from its start to its end, and report its load."""
        with self._results:
            try:
                code = await self._run_process(load)
                # A killed process, perhaps because memory ran out, says nothing about the model.
                if not self._is_settled and code != -signal.SIGKILL:
                    await self._fail(load, log.explain_end(list(self.last_lines), code))
            except OSError as error:
                self._epitaph = f"llama-server cannot be started: {error}"
            finally:
                self._ended.set()

    async def _run_process(self, load: Load) -> int:
        """Return the process's exit status."""
        async with (
            open_process(
                command(self._options, load, self._socket),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                environment=environment(load.threads),
            ) as process,
            trio.open_nursery() as nursery,
        ):
            self._process = process
            nursery.start_soon(self._read_log, process.stdout, name=f"log of {self._name}")
            nursery.start_soon(self._load, load, name=f"load of {self._name}")
            code = await process.wait()
            self._epitaph = f"llama-server {process.pid} {log.ending(code)}"
            with trio.move_on_after(_LOG_SECONDS):
                await self._log_settled.wait()
            nursery.cancel_scope.cancel()
        return code

    async def _load(self, load: Load) -> None:
        """Wait until the server has loaded the model, report it, and watch what it holds."""
        try:
            properties = await self._wait_loaded()
        except EngineLostError as error:
            await self._fail(load, f"it does not answer as a llama-server does: {error}")
            return
        with trio.move_on_after(_LOG_SECONDS):
            await self._log_settled.wait()
        if self._options.gpu_layers and not self._memory.has_accelerator:
            await self._fail(load, log.NO_ACCELERATOR)
            return
        length = min(properties.slot_tokens, load.context_length)
        slots = properties.total_slots
        self._model = LoadedModel(str(self._socket), length, slots, load)
        self._is_settled = True
        build = " ".join(filter(None, (properties.build, self._options.package)))
        await self._results.send([Loaded(length, slots, build, self._memory.devices)])
        await watch_held(str(self._socket), self._has_worked, self._note_held)

    def _has_worked(self) -> bool:
        """Return whether a request has run since the last call."""
        worked = self._has_begun or bool(self._scopes)
        self._has_begun = False
        return worked

    def _note_held(self, tokens: int | None) -> None:
        self.held_tokens = tokens

    async def _wait_loaded(self) -> Properties:
        """Return what the server says of the model once it is loaded.

        Raises:
            EngineLostError: It does not answer as a known llama-server.
        """
        while True:
            with contextlib.suppress(EngineLostError):  # it does not listen yet
                status, _ = await call(str(self._socket), "/health")
                if status == 200:
                    break
            await trio.sleep(_POLL_SECONDS)
        _, body = await call(str(self._socket), "/props")
        return decode(body, Properties)

    async def _fail(self, load: Load, why: str) -> None:
        """Report that the model was not loaded, and end the server."""
        self._is_settled = True
        path = readable(os.fsdecode(load.path))
        await self._results.send(
            [LoadFailed(f"{path}: {self._options.program} did not load it: {why}")]
        )
        self.kill()

    async def _answer(self, command: Generate | Tokenize) -> None:
        """Answer one request; its last result is `Finished`, also if it is cancelled."""
        ending: Finished | None = Finished(command.request, "cancelled", "")
        with contextlib.suppress(trio.ClosedResourceError):  # the server ended meanwhile
            try:
                with self._scopes[command.request]:
                    ending = await self._find_ending(command)
            finally:
                del self._scopes[command.request]
            if ending is not None:
                await self._results.send([ending])

    async def _find_ending(self, command: Generate | Tokenize) -> Finished | None:
        """Answer one request and return how it ended; None if the server is lost."""
        if self._model is None:
            return None
        try:
            if isinstance(command, Tokenize):
                return await self._model.show(command, self._pass_on)
            return await self._model.answer(command, self._pass_on)
        except EngineLostError as error:
            # The end of the server makes the supervisor start another one, which answers. It logs
            # the last lines.
            self.last_lines.append(f"request {command.request}: {error}")
            self.kill()
            return None

    async def _pass_on(self, results: list[Result]) -> None:
        """Pass results to the supervisor; waits only while too many wait there."""
        # Trio's `send` gives way to other tasks each time, which costs a token of a stream a turn.
        try:
            self._results.send_nowait(results)
        except trio.WouldBlock:
            await self._results.send(results)

    async def _read_log(self, printed: ReceiveStream | None) -> None:
        """Keep what the server prints. Runs until it closes its output."""
        rest = b""
        if printed is not None:  # it is a pipe
            async with printed:
                async for received in printed:
                    *lines, rest = (rest + received).split(b"\n")
                    rest = rest[-_LINE_BYTES:]
                    for line in lines:
                        self._log_line(line.decode(errors="replace"))
        self._log_settled.set()

    def _log_line(self, line: str) -> None:
        """Log a line; once the model is loaded, only warnings and errors.

        The others describe every request, in some versions even its prompt.
        """
        if self._model is None:
            self._memory.read(line)
            if log.is_end_of_load(line):
                self._log_settled.set()
        elif not log.is_severe(line):
            return
        self.last_lines.append(line)
        _log.debug("llama-server %d of %s: %s", self.pid, self._name, line)


@asynccontextmanager
async def open_llama_server(options: LlamaOptions) -> AsyncIterator[LlamaServer]:
    """Yield a llama-server that starts at its `Load` and ends with the block.

    Raises:
        OSError: The directory for its socket cannot be used.
    """
    with open_socket_path(options.directory) as socket:
        async with trio.open_nursery() as nursery:
            try:
                yield LlamaServer(nursery, options, socket)
            finally:
                nursery.cancel_scope.cancel()
