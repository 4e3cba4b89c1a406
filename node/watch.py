"""Notices that files were replaced, as a Secret of Kubernetes, certbot or an editor does it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

POLL_SECONDS: Final = 1.0

_State = tuple[tuple[int, ...] | None, ...]


async def watch_files(paths: Sequence[Path], changed: Callable[[], None]) -> None:
    """Call `changed` after any of the files has changed. Runs until cancelled.

    Looking is all that works everywhere: a Secret changes by a link two levels up, which no notice
    of the file itself tells.
    """
    before = _look(paths)
    while True:
        await trio.sleep(POLL_SECONDS)
        now = await trio.to_thread.run_sync(_look, paths)
        if now != before:
            before = now
            changed()


def _look(paths: Sequence[Path]) -> _State:
    return tuple(map(_look_at, paths))


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size
