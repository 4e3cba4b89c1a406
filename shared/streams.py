"""Makes the standard streams usable, however the process was started.

They may be closed, full, or lead to a pipe or terminal that nobody reads or that is gone; their
encoding may lack a character, and a file's name may have bytes that are none. None of that is a
reason to end or to stand still.
"""

import io
import os
import select
import sys
from typing import TextIO

_STDERR_WAIT_SECONDS = 0.05
"""How long one line for a reader who is slow may hold the process up."""


class UnwritableError(Exception):
    """Standard output cannot be written; the text is one line."""


class ReaderGoneError(UnwritableError):
    """Standard output is a pipe whose reader has left, as `head` does when it has enough."""


class _Output(io.FileIO):
    """Standard output: its errors are told apart from those of other files, and come once."""

    def write(self, written: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write as `FileIO` does, and wait where another program made the stream non-blocking."""
        try:
            while (count := super().write(written)) is None:
                select.select([], [self], [])
        except OSError as error:
            # What is left in the buffers would fail again when the interpreter ends.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            kind = ReaderGoneError if isinstance(error, BrokenPipeError) else UnwritableError
            raise kind(f"standard output cannot be written: {error.strerror}") from error
        return count


class _Log(io.FileIO):
    """Standard error, which neither fails nor waits long: a line that cannot be written is lost."""

    _lost = 0

    def write(self, written: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write what can be written now, or drop all of it."""
        try:
            if self._is_writable(0 if self._lost else _STDERR_WAIT_SECONDS):
                if self._lost:
                    super().write(b"(%d lines before this one could not be written)\n" % self._lost)
                    self._lost = 0
                # A pipe that is ready has room for so much.
                return super().write(memoryview(written)[: select.PIPE_BUF]) or len(written)
        except OSError:
            pass
        self._lost += 1
        return len(written)

    def _is_writable(self, seconds: float) -> bool:
        return bool(select.select([], [self], [], seconds)[1])


def make_usable() -> None:
    """Open the standard streams that are closed, and put writers that cope in their place.

    Call it before anything is opened: the next file or socket would take a closed stream's
    number, and whatever a library prints would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is sys.__stdout__:  # not where a test looks at what is printed
        sys.stdout = _open_text(_Output(1, "w", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _open_text(_Log(2, "w", closefd=False), sys.stderr)


def write(text: str) -> None:
    """Write on standard output at once; once that has failed, what follows is dropped.

    Raises:
        UnwritableError: It cannot be written.
    """
    sys.stdout.write(text)
    sys.stdout.flush()


def write_nowait(text: str) -> None:
    """Write a text of at most a page on standard output, unless it would have to wait.

    Raises:
        UnwritableError: It cannot be written, or not now.
    """
    if not select.select([], [sys.stdout], [], 0)[1]:
        raise UnwritableError("nobody reads standard output")
    write(text)


def _open_text(raw: io.RawIOBase, before: TextIO | None) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else None,
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.fileno() == 2,
    )
