"""Child processes: none outlives this process, and each one that ended is reaped."""

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from shared.runtime import lifeline

PYTHON: Final = (sys.executable, "-P")
"""Runs the project's modules, not modules of the same names in the working directory."""
_INIT: Final = 1
"""The process that adopts orphans; in a container the first process."""
_REAP_SECONDS: Final = 1.0

_own: Final[set[int]] = set()
"""Processes that were started here; their starters need the exit codes."""


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
    """Run a process that outlives neither this one nor the block; kill it if it does not end first.

    It has its own session: a terminal's signals (Ctrl-C, Ctrl-Z, hang-up) reach only this process,
    which decides what happens to the child. The streams are as for `subprocess.Popen`. By default,
    output and environment are this process's. `pass_fds` are descriptors that it inherits.

    Raises:
        OSError: No process, pipe or memory is available now.
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
                restore_signals=False,  # what Python ignores, a child ignores from the start
            )
        finally:
            os.close(read_end)
        async with _owned(process):
            yield process
    finally:
        os.close(write_end)


@contextlib.asynccontextmanager
async def _owned(process: trio.Process) -> AsyncIterator[None]:
    """Kill and reap the process at the end of the block."""
    _own.add(process.pid)
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):  # SIGKILL cannot be refused, so this ends at once
            await process.wait()
        _own.remove(process.pid)


async def reap_adopted() -> None:
    """Reap the orphans that this process has adopted, if it is process 1. Runs until cancelled.

    Returns at once in any other process.
    """
    if os.getpid() != _INIT:
        return
    seen: set[int] = set()
    while True:
        await trio.sleep(_REAP_SECONDS)
        # A child may end before it is registered as one of ours, so skip it at first sight.
        zombies = set(_zombies()) - _own
        for process_id in zombies & seen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process_id, os.WNOHANG)  # noqa: ASYNC222 - dead already
        seen = zombies


def _zombies() -> Iterator[int]:
    """Return this process's dead children that are not yet reaped (proc_pid_stat(5))."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = path.read_bytes().rpartition(b")")[2].split()
            if state == b"Z" and int(parent) == os.getpid():
                yield int(path.parent.name)
