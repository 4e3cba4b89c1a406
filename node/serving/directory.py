"""Finds the model files in a directory and in the folders inside it."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from node.engine.split_file import Part
from shared.paths import readable

_ENDING: Final = ".gguf"
_DEPTH_AT_MOST: Final = 16
_FOLDERS_AT_MOST: Final = 10_000
"""A directory with more folders is not a model directory; a start should not take minutes."""

_log = logging.getLogger(__name__)


def find_models(directory: Path) -> list[Path]:
    """Return the model files in a directory, in order of depth.

    Names that begin with a dot are skipped. Links are followed, and each folder is entered once.
    The first part stands for a whole split model. Unusable files are logged, one line each.

    Raises:
        OSError: The directory itself cannot be read.
    """
    found: list[Path] = []
    entered: set[tuple[int, int]] = set()
    level = [directory]
    for _ in range(_DEPTH_AT_MOST):
        below: list[Path] = []
        for folder in level:
            if len(entered) >= _FOLDERS_AT_MOST:
                _log.warning(
                    "%s contains more than %d folders: the rest is not searched",
                    readable(directory),
                    len(entered),
                )
                return found
            try:
                files, folders = _look_into(folder, entered)
            except OSError as error:
                if folder == directory:
                    raise
                _log.warning("%s cannot be read: %s", readable(folder), error.strerror)
            else:
                found += files
                below += folders
        level = below
    return found


def _look_into(folder: Path, entered: set[tuple[int, int]]) -> tuple[list[Path], list[Path]]:
    """Return a folder's model files and subfolders; neither if it was visited before."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in entered:
        return [], []
    entered.add((status.st_dev, status.st_ino))
    names = sorted((entry.name for entry in folder.iterdir()), key=os.fsencode)
    shown = [folder / name for name in names if not name.startswith(".")]
    kinds = {entry: _look_at(entry) for entry in shown}
    folders = [entry for entry, kind in kinds.items() if kind == "folder"]
    files = {entry: kind for entry, kind in kinds.items() if entry.name.lower().endswith(_ENDING)}
    return list(_usable(folder, files)), folders


def _usable(folder: Path, files: dict[Path, str]) -> Iterator[Path]:
    """Yield the files that stand for a model."""
    lost: set[str] = set()
    for file, kind in files.items():
        part = Part.read(file.name)
        if kind not in ("file", "folder"):
            _log.warning("%s %s: it is not served", readable(file), kind)
        elif kind == "file" and (part is None or part.number == 1):
            yield file
        elif part and part.names[0] in part.missing(folder):
            lost.add(part.names[0])
    for name in sorted(lost):
        _log.warning("%s is missing: its other parts are not served", readable(folder / name))


def _look_at(entry: Path) -> str:
    """Return an entry's kind, or what is wrong with it."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "is a broken link"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "is not a file"
