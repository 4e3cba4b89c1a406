"""Has a file fetched by a process of its own, which the node's loop never feels."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from node.errors import StartupError
from node.serving.downloads import report
from node.serving.downloads.source import HubFile

Progress = Callable[[int, int], None]
"""Takes the bytes that are here and those that there are."""

_READ_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


async def fetch(file: HubFile, progress: Progress) -> Path:
    """Give the file's place on this machine, where it is fetched to if it is not here.

    Cancelled, it kills the process at once; what was fetched is kept, and the next time goes on
    from there.

    Raises:
        StartupError: The file cannot be had.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "node.serving.downloads.fetch", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for the node, which decides
    )
    try:
        return await _follow(process, file, progress)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):  # SIGKILL is not refused: this ends at once
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await trio.aclose_forcefully(stream)


async def _follow(process: trio.Process, file: HubFile, progress: Progress) -> Path:
    if process.stdout is None:
        raise RuntimeError("a process without the pipe that it was given")
    rest = b""
    async for received in process.stdout:
        *whole, rest = (rest + received).split(b"\n")
        for line in whole:
            if (path := _take(report.decoder.decode(line), file, progress)) is not None:
                return path
    code = await process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise StartupError(f"the process that fetched {file} {how}: start again to go on")


def _take(told: report.Report, file: HubFile, progress: Progress) -> Path | None:
    match told:
        case report.Moved(done_bytes, total_bytes):
            progress(done_bytes, total_bytes)
        case report.Noted(text):
            _log.info("%s: %s", file, text)
        case report.Failed(message):
            raise StartupError(message)
        case report.Fetched(path):
            return Path(path)
    return None
