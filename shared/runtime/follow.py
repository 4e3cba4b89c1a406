"""Watches files for replacement, as done by Kubernetes Secrets, certbot and editors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

POLL_SECONDS: Final = 1.0

_Look = tuple[int, ...] | None


class FollowedFiles:
    """Files that are watched for changes from the creation of this object.

    Create it before the files are first read, so that a change during the read is noticed too.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._seen = {path: _look_at(path) for path in paths}

    def watch(self, paths: Sequence[Path]) -> None:
        """Watch these files from now on. One that is already watched loses no change."""
        self._seen = {
            path: self._seen[path] if path in self._seen else _look_at(path) for path in paths
        }

    async def run(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change of any of the files. Runs until cancelled.

        It polls, because only polling works everywhere: a Secret changes through a link two levels
        up, which causes no notification for the file itself.
        """
        while True:
            now = await trio.to_thread.run_sync(_look_at_all, tuple(self._seen))
            if now != self._seen:
                self._seen = now
                changed()
            await trio.sleep(POLL_SECONDS)


def _look_at_all(paths: tuple[Path, ...]) -> dict[Path, _Look]:
    return {path: _look_at(path) for path in paths}


def _look_at(path: Path) -> _Look:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size
