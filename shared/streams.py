"""Makes the standard streams usable, however the process was started.

They may be closed or full, or lead to a pipe or terminal that is gone or not read. Their encoding
may lack a character, and file names may contain undecodable bytes. None of that may end or block
the process.
"""

import io
import os
import select
import sys
from typing import TextIO

_STDERR_WAIT_SECONDS = 0.05
"""How long one line may block the process on a slow reader."""


class UnwritableError(Exception):
    """Standard output cannot be written. The text is one line."""


class ReaderGoneError(UnwritableError):
    """Standard output is a pipe whose reader has closed it, as `head` does."""


class _Output(io.FileIO):
    """Standard output: raises its own kind of error, and raises it only once."""

    def write(self, written: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write like `FileIO`, and wait if another program made the stream non-blocking."""
        try:
            while (count := super().write(written)) is None:
                select.select([], [self], [])
        except OSError as error:
            # Data left in the buffers would fail again at the interpreter's exit.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            kind = ReaderGoneError if isinstance(error, BrokenPipeError) else UnwritableError
            raise kind(f"standard output cannot be written: {error.strerror}") from error
        return count


class _Log(io.FileIO):
    """Standard error: never fails or waits long; drops a line that cannot be written."""

    _lost = 0

    def write(self, written: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write what can be written now, or drop all of it."""
        try:
            if self._is_writable(0 if self._lost else _STDERR_WAIT_SECONDS):
                if self._lost:
                    super().write(b"(%d lines before this one could not be written)\n" % self._lost)
                    self._lost = 0
                # A ready pipe has room for this much.
                return super().write(memoryview(written)[: select.PIPE_BUF]) or len(written)
        except OSError:
            pass
        self._lost += 1
        return len(written)

    def _is_writable(self, seconds: float) -> bool:
        return bool(select.select([], [self], [], seconds)[1])


def make_usable() -> None:
    """Open closed standard streams and install the writers of this module.

    Call it before anything is opened: the next file or socket would take a closed stream's number,
    and libraries' output would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is sys.__stdout__:  # not if a test captures the output
        sys.stdout = _open_text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _open_text(_Log(2, "w", closefd=False), sys.stderr)


def write(text: str) -> None:
    """Write to standard output at once; after a failure, further output is dropped.

    Raises:
        UnwritableError: Standard output cannot be written.
    """
    sys.stdout.write(text)
    sys.stdout.flush()


def write_nowait(text: str) -> None:
    """Write a text of at most a page to standard output, unless that would block.

    Raises:
        UnwritableError: Standard output cannot be written, or not now.
    """
    if not select.select([], [sys.stdout], [], 0)[1]:
        raise UnwritableError("standard output is not being read")
    write(text)


def _open_text(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else None,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
