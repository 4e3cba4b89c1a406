"""The processes that a process starts: none outlives it, and each that ended is taken away."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from shared.runtime import lifeline

PYTHON: Final = (sys.executable, "-P")
"""Runs modules of the project, not those that the working directory may hold by the same names."""
_INIT: Final = 1
"""The process that adopts those whose parents ended, in a container the first one."""
_REAP_SECONDS: Final = 1.0

_own: Final[set[int]] = set()
"""Those that were started here: who waits for one wants its exit code."""


@contextlib.asynccontextmanager
async def open_process(
    command: Sequence[str],
    *,
    stdin: int,
    stdout: int | None = None,
    stderr: int | None = None,
    environment: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> AsyncIterator[trio.Process]:
    """Run a process that neither outlives this one nor the block; killed if it does not end first.

    It has a session of its own: what a terminal sends to this process (Ctrl-C, Ctrl-Z, a hang-up)
    is for this process, which decides what becomes of the other.

    Args:
        command: The absolute path of a program, and its arguments.
        stdin: As for `subprocess.Popen`, like the two that follow.
        stdout: This process' own if not given.
        stderr: This process' own if not given.
        environment: This process' own if not given.
        pass_fds: Descriptors that it gets.

    Raises:
        OSError: No process, pipe or memory can be had now.
    """
    read_end, write_end = os.pipe()
    try:
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", lifeline.__file__, str(read_end), *command],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                pass_fds=(read_end, *pass_fds),
                start_new_session=True,
            )
        finally:
            os.close(read_end)
        _own.add(process.pid)
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):  # SIGKILL is not refused: this ends at once
                await process.wait()
            _own.remove(process.pid)
    finally:
        os.close(write_end)


async def reap_adopted() -> None:
    """Take away dead processes that were left to this one, if it is process 1.

    Runs until cancelled; returns at once in any other process.
    """
    if os.getpid() != _INIT:
        return
    seen: set[int] = set()
    while True:
        await trio.sleep(_REAP_SECONDS)
        # A process just started here may be dead before it is known as our own: not at first sight.
        zombies = set(_zombies()) - _own
        for process_id in zombies & seen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process_id, os.WNOHANG)  # noqa: ASYNC222 - it is dead: nothing waits
        seen = zombies


def _zombies() -> Iterator[int]:
    """Find this process' children that are dead and not yet waited for (proc_pid_stat(5))."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_bytes().rpartition(b")")[2].split()
            if state == b"Z" and int(parent) == os.getpid():
                yield int(path.parent.name)
