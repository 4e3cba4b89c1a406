"""Notices that files were replaced, as a Secret of Kubernetes, certbot or an editor does it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

POLL_SECONDS: Final = 1.0

_Look = tuple[tuple[int, ...] | None, ...]


class FollowedFiles:
    """Files whose every change is noticed, from the moment at which this object is made.

    So make it before the files are read for the first time: what changes while they are read is
    then noticed too.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._before = self._look()

    async def run(self, changed: Callable[[], None]) -> None:
        """Call `changed` after any of the files has changed. Runs until cancelled.

        It polls, which alone works everywhere: a Secret changes by a link two levels up, and no
        notification of the file itself says so.
        """
        while True:
            now = await trio.to_thread.run_sync(self._look)
            if now != self._before:
                self._before = now
                changed()
            await trio.sleep(POLL_SECONDS)

    def _look(self) -> _Look:
        return tuple(map(_look_at, self._paths))


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size
