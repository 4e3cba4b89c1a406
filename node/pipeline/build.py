"""Identifies a build of llama.cpp, because both ends of its RPC must be the same."""

import logging
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from shared.repeats import Repeats
from shared.runtime.processes import open_process

_WORKER: Final = "ggml-rpc-server"
"""The worker's program, beside llama-server in a build with RPC."""
_LOOK_SECONDS: Final = 5.0
"""How often the programs are checked for a change, such as an upgrade."""
_VERSION: Final = re.compile(r"^version: *(.+)$", re.MULTILINE)
_DEVICES: Final = re.compile(r"^Available devices:\n((?: +.+\n?)*)", re.MULTILINE)
_NO_DEVICE: Final = "(none)"
_SECONDS: Final = 60.0
"""A driver of GPUs may take long to start."""
_OUTPUT_BYTES: Final = 2**20

_log = logging.getLogger(__name__)


class UnknownBuildError(Exception):
    """A program does not say which build it is."""


@dataclass(frozen=True)
class Build:
    """A build of llama.cpp."""

    name: str
    """Equal for two programs that can work together."""
    has_accelerator: bool
    """Whether it finds a GPU here, whose memory the node cannot see."""


class Programs:
    """The programs of a build with RPC: llama-server, and the worker's program beside it.

    Args:
        server: Absolute path of llama-server; None to lend nothing.
    """

    def __init__(self, server: Path | None) -> None:
        self.build: Build | None = None
        """The build; None while it is unknown, and without a worker's program."""
        self._server = server
        self._identified: tuple[object, ...] = ()
        """The state of the files when the build was identified."""
        self._repeats = Repeats(_log)

    @property
    def worker(self) -> Path:
        """The worker's program."""
        return (self._server or Path("llama-server")).with_name(_WORKER)

    @property
    def has_program(self) -> bool:
        """Whether there is a worker's program."""
        return self._server is not None and self.worker.exists()

    @property
    def may_use_gpu(self) -> bool:
        """Whether the build finds a GPU here; true until that is known."""
        return self.build is None or self.build.has_accelerator

    @property
    def are_unchanged(self) -> bool:
        """Whether the files are those whose build is known."""
        return self._state() == self._identified

    async def run(self) -> None:
        """Identify the build, again after each change of the files. Runs until cancelled."""
        while self._server is not None:
            if (state := self._state()) != self._identified:
                self.build = await self._identify(self._server)
                self._identified = state
            await trio.sleep(_LOOK_SECONDS)
        await trio.sleep_forever()

    async def _identify(self, server: Path) -> Build | None:
        if not self.has_program:
            return None
        try:
            build = await identify(server)
        except UnknownBuildError as error:
            self._repeats.note("no worker is lent: %s", error, kind="build")
            return None
        _log.info("workers can be lent: %s, %s", self.worker, build.name)
        return build

    def _state(self) -> tuple[object, ...]:
        return tuple(_state_of(path) for path in (self._server, self.worker) if path is not None)


def _state_of(program: Path) -> object:
    """Return what changes when a program is replaced; None if it does not exist."""
    try:
        status = program.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


async def identify(server: Path) -> Build:
    """Return the build of a llama-server, given by its absolute path.

    Raises:
        UnknownBuildError: It cannot be run, or prints no version.
    """
    found = _VERSION.search(await _output(server, "--version"))
    if found is None:
        raise UnknownBuildError(f"{server} --version prints no version")
    devices = _DEVICES.search(await _output(server, "--list-devices"))
    named = devices[1].split() if devices else []
    return Build(found[1].strip(), bool(named) and named != [_NO_DEVICE])


async def _output(program: Path, flag: str) -> str:
    received = bytearray()
    with trio.move_on_after(_SECONDS) as patience, suppress(OSError):
        async with open_process(
            [str(program), flag],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            async for piece in process.stdout:
                received += piece[: _OUTPUT_BYTES - len(received)]
            await process.wait()
    if patience.cancelled_caught:
        raise UnknownBuildError(f"{program} {flag} does not end")
    return received.decode(errors="replace")
