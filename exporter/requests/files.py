"""The files of the request log: appended to, rotated, and bounded in total."""

import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from shared import streams

STDOUT: Final = Path("-")
"""The name of standard output in the settings."""
FILES: Final = 4
"""The current file and those before it, each with a quarter of the bytes."""
_MODE: Final = 0o640
"""For a log shipper of the same group."""


class Output(Protocol):
    """Where lines go."""

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines. Blocks.

        Raises:
            OSError: None of them, or only some of them, could be written.
        """


class FileOutput:
    """A log in files: `PATH`, and older ones as `PATH.1` (the newest), `PATH.2` and so on.

    The file is opened for each append, so that it may be moved, deleted or mounted over meanwhile.

    Args:
        path: The current file.
        limit_bytes: Limit of all files together.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._file_bytes = limit_bytes // FILES

    def append(self, lines: Sequence[bytes]) -> None:
        """Append lines, and begin a new file if the current one would become too long.

        Raises:
            OSError: They could not be written. None of them is in the file.
        """
        content = b"".join(lines)
        descriptor = self._open()
        try:
            status = os.fstat(descriptor)
            is_file = stat.S_ISREG(status.st_mode)  # a pipe or a device cannot be rotated
            if is_file and status.st_size and status.st_size + len(content) > self._file_bytes:
                self._rotate()
                os.close(descriptor)
                descriptor = self._open()
                status = os.fstat(descriptor)
            _write_all(descriptor, content, status.st_size if is_file else None)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, _MODE)

    def _rotate(self) -> None:
        for newer, older in reversed([*itertools.pairwise(names(self._path))]):
            if newer.exists():
                newer.replace(older)


class StreamOutput:
    """A log on standard output."""

    def __init__(self) -> None:
        self._failure = ""

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines to standard output.

        Raises:
            OSError: It cannot be written, now or since an earlier call.
        """
        if not self._failure:
            try:
                streams.write(b"".join(lines).decode())
            except streams.UnwritableError as error:
                self._failure = str(error)
        if self._failure:
            raise OSError(self._failure)


def names(path: Path) -> list[Path]:
    """Return the files of a log, the newest first, whether they exist or not."""
    older = (path.with_name(f"{path.name}.{number}") for number in range(1, FILES))
    return [path, *older]


def _write_all(descriptor: int, content: bytes, size: int | None) -> None:
    """Write everything; else, to a file of this size, nothing: half a line would spoil the next."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        if size is not None:
            os.ftruncate(descriptor, size)
        raise
