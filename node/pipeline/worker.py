"""Runs one `ggml-rpc-server`, which holds some layers of a model for another node."""

import logging
import os
import resource
import socket
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from trio.abc import ReceiveStream

from shared.runtime.processes import open_process

HOST: Final = "127.0.0.1"
"""Workers know neither authentication nor encryption; only a tunnel leads to one from outside."""
_START_SECONDS: Final = 30.0
"""A driver of GPUs may take long to start."""
_ATTEMPTS: Final = 3
"""Another process may take the port that was free a moment ago."""
_POLL_SECONDS: Final = 0.02
_LOOK_SECONDS: Final = 0.5
_LOG_LINES: Final = 5
_LOG_SECONDS: Final = 2.0
"""How long the log of a worker that has not started may lag behind."""
_LINE_BYTES: Final = 16 * 2**10
_OVERHEAD_BYTES: Final = 64 * 2**20
"""What a worker may take besides what it holds. Measured: 1 MiB idle, 2 MiB after 1500 tokens."""
_THREAD_BYTES: Final = 8 * 2**20
"""The stack of a thread, as measured."""
_STOPPED: Final = "Tt"
"""States of a process that was stopped, by a signal or a debugger (proc_pid_stat(5))."""

_log = logging.getLogger(__name__)


class WorkerFailedError(Exception):
    """A worker did not start; the text says why."""


@dataclass(frozen=True)
class WorkerOptions:
    """How to run a worker."""

    program: Path
    threads: int
    memory_bytes: int | None
    """What it may hold; None for no limit, as where GPUs hold it."""
    cache: Path | None
    """Directory of its tensors; None to keep none."""
    cpu_only: bool = False


class Worker:
    """A worker that listens.

    Args:
        process: Its process.
        port: Its port on loopback.
    """

    def __init__(self, process: trio.Process, port: int) -> None:
        self._process = process
        self.port = port

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def held_bytes(self) -> int:
        """Return the memory that it holds (proc_pid_statm(5)); 0 once it has ended."""
        try:
            resident = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(resident) * resource.getpagesize()

    async def connect(self) -> trio.SocketStream:
        """Return a new client's connection to it.

        Raises:
            OSError: It does not listen any more.
        """
        return await trio.open_tcp_stream(HOST, self.port)

    async def wait_ended(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()

    async def wait_stopped(self) -> None:
        """Wait until the process was stopped by a signal; for ever if it ends first."""
        while _state(self.pid) not in _STOPPED:  # noqa: ASYNC110 - the kernel announces it to no one
            await trio.sleep(_LOOK_SECONDS)


@asynccontextmanager
async def open_worker(options: WorkerOptions) -> AsyncIterator[Worker]:
    """Yield a worker that listens; it ends with the block.

    Raises:
        WorkerFailedError: It cannot be run, or does not start to listen.
        OSError: No process, pipe or memory is available now.
    """
    for left in reversed(range(_ATTEMPTS)):
        lines: deque[str] = deque(maxlen=_LOG_LINES)
        port = _free_port()
        async with open_process(
            _command(options, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            environment=_environment(options),
        ) as process:
            _limit_memory(process.pid, options)
            async with trio.open_nursery() as nursery:
                name = f"log of worker {process.pid}"
                nursery.start_soon(_read_log, process.pid, process.stderr, lines, name=name)
                if await _wait_listening(process, port):
                    yield Worker(process, port)
                    nursery.cancel_scope.cancel()
                    return
                # Its last lines say why, and may be read only now.
                nursery.cancel_scope.deadline = trio.current_time() + _LOG_SECONDS
        if not left:
            raise WorkerFailedError(f"{options.program} does not start: {' '.join(lines)}")


def _command(options: WorkerOptions, port: int) -> list[str]:
    command = [str(options.program.absolute()), "--host", HOST, "--port", str(port)]
    command += ["--threads", str(options.threads)]
    if options.cpu_only:
        command += ["--device", "CPU"]
    return command if options.cache is None else [*command, "--cache"]


def _environment(options: WorkerOptions) -> dict[str, str]:
    cache = {} if options.cache is None else {"LLAMA_CACHE": str(options.cache.absolute())}
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "GGML_NO_BACKTRACE": "1", **cache}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _limit_memory(process_id: int, options: WorkerOptions) -> None:
    """Make the worker refuse to hold more, instead of taking what the node's models need."""
    if options.memory_bytes is not None and hasattr(resource, "prlimit"):  # Linux
        limit = options.memory_bytes + _OVERHEAD_BYTES + options.threads * _THREAD_BYTES
        resource.prlimit(process_id, resource.RLIMIT_DATA, (limit, limit))


async def _wait_listening(process: trio.Process, port: int) -> bool:
    """Wait until the worker listens. Return False if it has ended or does not listen in time."""
    with trio.move_on_after(_START_SECONDS):
        while process.poll() is None:
            try:
                stream = await trio.open_tcp_stream(HOST, port)
            except OSError:
                await trio.sleep(_POLL_SECONDS)
            else:
                await stream.aclose()
                return process.poll() is None
    return False


async def _read_log(process_id: int, printed: ReceiveStream | None, lines: deque[str]) -> None:
    """Keep the last lines that the worker prints. Runs until it closes its output."""
    rest = b""
    if printed is not None:  # it is a pipe
        async for received in printed:
            *whole, rest = (rest + received).split(b"\n")
            rest = rest[-_LINE_BYTES:]
            for line in whole:
                lines.append(line.decode(errors="replace"))
                _log.debug("worker %d: %s", process_id, lines[-1])


def _state(process_id: int) -> str:
    """Return the letter of a process's state; `X` if it has ended (proc_pid_stat(5))."""
    try:
        status = Path(f"/proc/{process_id}/stat").read_bytes()
    except OSError:
        return "X"
    return status.rpartition(b")")[2].split()[0].decode()
