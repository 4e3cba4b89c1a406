"""How full the disk of the state directory is."""

import shutil
from pathlib import Path
from typing import Final

import trio

from exporter.metrics.conditions import Storage

_SAMPLE_SECONDS: Final = 10.0


async def watch_disk(directory: Path, storage: Storage) -> None:
    """Note the free and the total bytes of a directory's disk. Runs until cancelled.

    The call may hang with the disk, so it has a thread of its own.
    """
    while True:
        storage.disk_free_bytes, storage.disk_total_bytes = await trio.to_thread.run_sync(
            _read_space, directory, abandon_on_cancel=True
        )
        await trio.sleep(_SAMPLE_SECONDS)


def _read_space(directory: Path) -> tuple[int, int]:
    """Return free and total bytes; 0 for a directory that is not there."""
    try:
        space = shutil.disk_usage(directory)
    except OSError:
        return 0, 0
    return space.free, space.total
