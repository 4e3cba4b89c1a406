"""Reads a model's file into memory and opens it with the library, in the child."""

import os
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Final

from node.engine.ctransformers import header
from node.engine.ctransformers.library import CTransformersEngine
from node.engine.protocol import Load
from node.engine.vocabulary import Vocabulary

_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")
"""Where open files have names: on Linux, whose containers may lack the second, and elsewhere."""
_FILE_READ_BYTES: Final = 16 * 2**20

Note = Callable[[int, int], None]
"""Takes how many bytes of the file are read, and how many it has."""


def open_weights(
    file: BufferedReader, command: Load, note: Note
) -> tuple[CTransformersEngine, Vocabulary]:
    """Open a model with the library.

    Raises:
        UnusableModelError: Its header cannot be used.
        RuntimeError: The library refuses it.
        OSError: It cannot be read.
    """
    vocabulary = header.read_open_header(file, Path(os.fsdecode(command.path))).vocabulary
    _read_through(file, note)
    # By its descriptor, so that it is the file that was checked, even if its name changes
    # meanwhile.
    opened = _open_name(file) or os.fsdecode(command.path)
    engine = CTransformersEngine(opened, command.context_length, command.threads, vocabulary)
    return engine, vocabulary


def _open_name(file: BufferedReader) -> str:
    """Return a name by which an open file can be opened again; "" if the system has none."""
    names = (f"{directory}/{file.fileno()}" for directory in _DESCRIPTORS)
    return next(filter(os.path.exists, names), "")


def _read_through(file: BufferedReader, note: Note) -> None:
    """Read the model's file once, so that it is in memory, and report the progress.

    Otherwise the library maps the file and waits silently for each page from the disk.
    """
    total = os.fstat(file.fileno()).st_size
    buffer = bytearray(_FILE_READ_BYTES)
    done = 0
    file.seek(0)
    while count := file.readinto(buffer):
        done += count
        note(done, total)
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # where reopening a descriptor shares its position
