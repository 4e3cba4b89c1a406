"""A socket's file: creates it for one user only, and watches it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

_LOOK_SECONDS: Final = 1.0


@contextmanager
def for_this_user_only() -> Iterator[None]:
    """Create files with mode 0600 within the block: pynng cannot set a socket's mode."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def find_inode(path: Path) -> int:
    """Return a number that identifies the file at a path; -1 if there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return -1


async def wait_removed(path: Path, inode: int) -> None:
    """Wait, at least a second, until a file was removed or replaced."""
    while True:
        await trio.sleep(_LOOK_SECONDS)
        if find_inode(path) != inode:
            return
