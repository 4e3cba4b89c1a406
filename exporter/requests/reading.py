"""Reads the request log back: the older files, then the current one, also while it grows."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from exporter.requests.files import names
from exporter.requests.line import Line, decoder

_READ_BYTES: Final = 2**20


class LogReader:
    """Reads each line of a log once.

    Args:
        path: The log's current file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def read_older(self) -> Iterator[Line]:
        """Yield the lines of the files that were rotated, the oldest first."""
        for path in reversed(names(self._path)[1:]):
            if path.exists():
                with path.open("rb") as file:
                    yield from self._lines(file)

    def read_new(self) -> Iterator[Line]:
        """Yield the lines of the current file that were not read yet.

        A file that was replaced meanwhile is read to its end first.
        """
        while True:
            if self._file is not None:
                yield from self._lines(self._file)
                if self._is_current(self._file):
                    return
                self.close()
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return

    def close(self) -> None:
        """Close the current file."""
        if self._file is not None:
            self._file.close()
        self._file = None
        self._rest = b""

    def _is_current(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _lines(self, file: BinaryIO) -> Iterator[Line]:
        while content := file.read(_READ_BYTES):
            *whole, self._rest = (self._rest + content).split(b"\n")
            for text in whole:
                if (line := _read(text)) is not None:
                    yield line


def _read(text: bytes) -> Line | None:
    """Return a line; None for what a power failure or another program left in the file."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
