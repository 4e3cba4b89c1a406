"""Has a file fetched by a process of its own, which the node's loop never feels."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from node.errors import StartupError
from node.models import report
from node.models.source import HubFile

Progress = Callable[[int, int], None]
"""Takes the bytes that are here and those that there are."""

_READ_BYTES: Final = 64 * 1024
_LOG_SECONDS: Final = 30.0
_TENTH: Final = 10

_log = logging.getLogger(__name__)


async def fetch(file: HubFile, progress: Progress) -> Path:
    """Give the file's place on this machine, where it is fetched to if it is not here.

    On a terminal the process draws a bar, else lines are logged now and then. Cancelled, it kills
    the process at once; what was fetched is kept, and the next time goes on from there.

    Raises:
        StartupError: The file cannot be had.
    """
    lines = _Lines(file, progress, drawn=sys.stderr.isatty())
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "node.models.fetch", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for the node, which decides
    )
    try:
        return await _follow(process, lines)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):  # SIGKILL is not refused: this ends at once
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await trio.aclose_forcefully(stream)


async def _follow(process: trio.Process, lines: "_Lines") -> Path:
    if process.stdout is None:
        raise RuntimeError("a process without the pipe that it was given")
    rest = b""
    async for received in process.stdout:
        *whole, rest = (rest + received).split(b"\n")
        for line in whole:
            if (path := lines.take(report.decoder.decode(line))) is not None:
                return path
    code = await process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise StartupError(f"the process that fetched {lines.file} {how}: start again to go on")


class _Lines:
    """Hands progress on, and logs it where nothing is drawn."""

    def __init__(self, file: HubFile, progress: Progress, *, drawn: bool) -> None:
        self.file: Final = file
        self._progress = progress
        self._drawn = drawn
        self._tenths = -1
        self._logged_at = 0.0

    def take(self, told: report.Report) -> Path | None:
        """Take one report; the last one gives the file's place.

        Raises:
            StartupError: The file cannot be had.
        """
        match told:
            case report.Moved(done_bytes, total_bytes):
                self._progress(done_bytes, total_bytes)
                self._log_progress(done_bytes, total_bytes)
            case report.Noted(text):
                _log.info("%s: %s", self.file, text)
            case report.Failed(message):
                raise StartupError(message)
            case report.Fetched(path):
                return Path(path)
        return None

    def _log_progress(self, done: int, total: int) -> None:
        tenths = _TENTH * done // total
        now = trio.current_time()
        if self._drawn or (tenths == self._tenths and now - self._logged_at < _LOG_SECONDS):
            return
        self._tenths, self._logged_at = tenths, now
        _log.info("%s: %d of %d bytes (%d %%)", self.file, done, total, 100 * done // total)
