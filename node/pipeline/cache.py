"""The files in which a worker keeps large tensors, so that a second load does not send them."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SPARE: Final = 2
"""The cache is used only if the disk has this many times the room of what is to be loaded."""


def make_room(directory: Path, limit_bytes: int, needed_bytes: int) -> bool:
    """Remove the files used least recently, so that a load stays within the limit.

    Args:
        directory: The cache; it is created.
        limit_bytes: What the cache may hold after the load.
        needed_bytes: What the load may add.

    Returns:
        Whether the load may use the cache: it fits in the limit and on the disk.

    Raises:
        OSError: The directory cannot be used.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = sorted(_files(directory))
    size = sum(size for _, size, _ in files)
    for _, size_bytes, path in files:
        if size + needed_bytes <= limit_bytes:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            size -= size_bytes
    free = shutil.disk_usage(directory).free
    return needed_bytes <= limit_bytes and free >= _SPARE * needed_bytes


def _files(directory: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield each file's last use, its size and its path."""
    for folder, _, names in os.walk(directory):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(OSError):
                status = path.lstat()
                yield max(status.st_atime, status.st_mtime), status.st_size, path
