"""The file of a socket: made for one user only, and watched."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

_LOOK_SECONDS: Final = 1.0


@contextmanager
def for_this_user_only() -> Iterator[None]:
    """Make files of mode 0600 within the block: pynng cannot be told a socket file's mode."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def find_inode(path: Path) -> int:
    """Tell one file at a path from another; -1 where there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return -1


async def wait_removed(path: Path, inode: int) -> None:
    """Wait, a second at least, until a file is not there any more or is another."""
    while True:
        await trio.sleep(_LOOK_SECONDS)
        if find_inode(path) != inode:
            return
