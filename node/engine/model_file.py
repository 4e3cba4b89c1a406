"""Opens a model's file, which may be anything: a path is the word of whoever gave it."""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from shared.paths import readable


class UnusableModelError(Exception):
    """The file is no model that the engine runs; the text names cause and remedy in one line."""


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[BufferedReader]:
    """Open a model's file for the block; a pipe or a device is not opened.

    Raises:
        UnusableModelError: There is no such file, or it cannot be read.
    """
    with _open(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableModelError(_no_file(path))
        yield file


def _open(path: Path) -> BufferedReader:
    try:
        # Looked at before it is opened, which is not nothing to a device. Whoever exchanges it
        # meanwhile for a pipe does not make this wait for a writer.
        if stat.S_ISREG(path.stat().st_mode):
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except PermissionError as error:
        message = f"the model file {readable(path)} cannot be read: allow this user to read it"
        raise UnusableModelError(message) from error
    except (OSError, ValueError) as error:
        raise UnusableModelError(_no_file(path, getattr(error, "strerror", ""))) from error
    raise UnusableModelError(_no_file(path))


def _no_file(path: Path, why: str | None = "") -> str:
    reason = f" ({why})" if why else ""
    return f"there is no model file at {readable(path)}{reason}: give --model a GGUF file"
