"""Downloads a file in a separate process, so that it never blocks the node's event loop."""

import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio
from trio.abc import ReceiveStream

from node.errors import StartupError
from node.serving.downloads import report
from node.serving.downloads.source import HubFile
from shared.runtime.processes import PYTHON, open_process

Progress = Callable[[int, int], None]
"""Called with the received and the total bytes."""

_READ_BYTES: Final = 64 * 1024

_log = logging.getLogger(__name__)


async def fetch(file: HubFile, progress: Progress) -> Path:
    """Return the file's path on this machine; download it first if needed.

    When cancelled, it kills the process at once. The received bytes are kept, and the next download
    resumes from there.

    Raises:
        StartupError: The file cannot be downloaded.
    """
    async with open_process(
        [*PYTHON, "-m", "node.serving.downloads.fetch", str(file)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        if process.stdout is None:
            raise RuntimeError("the process has no pipe for its output")
        try:
            return await _follow(process, process.stdout, file, progress)
        finally:
            await trio.aclose_forcefully(process.stdout)


async def _follow(
    process: trio.Process, reports: ReceiveStream, file: HubFile, progress: Progress
) -> Path:
    rest = b""
    async for received in reports:
        *whole, rest = (rest + received).split(b"\n")
        for line in whole:
            if (path := _take(report.decoder.decode(line), file, progress)) is not None:
                return path
    code = await process.wait()
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    raise StartupError(f"the process that downloaded {file} {how}: restart to resume")


def _take(told: report.Report, file: HubFile, progress: Progress) -> Path | None:
    match told:
        case report.Moved(done_bytes, total_bytes):
            progress(done_bytes, total_bytes)
        case report.Noted(text):
            _log.info("%s: %s", file, text)
        case report.Failed(message):
            raise StartupError(message)
        case report.Fetched(path):
            return Path(os.fsdecode(path))
    return None
