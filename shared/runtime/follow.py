"""Watches files for replacement, as done by Kubernetes Secrets, certbot and editors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

POLL_SECONDS: Final = 1.0

_Look = tuple[tuple[int, ...] | None, ...]


class FollowedFiles:
    """Files that are watched for changes from the creation of this object.

    Create it before the files are first read, so that a change during the read is noticed too.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._before = self._look()

    async def run(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change of any of the files. Runs until cancelled.

        It polls, because only polling works everywhere: a Secret changes through a link two levels
        up, which causes no notification for the file itself.
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
