"""Opens a model's file; a path from a user may lead to anything."""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from shared.paths import readable


class UnusableModelError(Exception):
    """The file is not a model that the engine runs; the text is one line with cause and remedy."""


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[BufferedReader]:
    """Open a model's file for the block; refuse pipes and devices.

    Raises:
        UnusableModelError: The file does not exist or cannot be read.
    """
    with _open(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableModelError(no_file(path))
        yield file


def _open(path: Path) -> BufferedReader:
    try:
        # Checked before opening, because opening a device may have effects. O_NONBLOCK avoids a
        # wait for a writer if a pipe replaces the file meanwhile.
        if stat.S_ISREG(path.stat().st_mode):
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except PermissionError as error:
        message = f"the model file {readable(path)} cannot be read: allow this user to read it"
        raise UnusableModelError(message) from error
    except (OSError, ValueError) as error:
        raise UnusableModelError(no_file(path, getattr(error, "strerror", ""))) from error
    raise UnusableModelError(no_file(path))


def no_file(path: Path, why: str | None = "") -> str:
    """Return the message about a path without a file."""
    reason = f" ({why})" if why else ""
    return f"there is no model file at {readable(path)}{reason}: set --model to a GGUF file"
