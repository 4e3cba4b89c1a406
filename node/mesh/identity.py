"""Keeps on disk how often the node has started, so that its peers tell its runs apart."""

import logging
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final

from node.mesh.membership import Identity

_NAME: Final = "mesh-incarnation"
_SESSION_BITS: Final = 63

_log = logging.getLogger(__name__)


def next_identity(node_id: str, state_dir: Path, software: str) -> Identity:
    """Begin a new run of a node: its incarnation is higher than that of every run before.

    It is the wall clock's seconds, or one more than the last incarnation where that is more: a
    clock that was set back makes no difference while the state directory is there, and a state
    directory that was lost none while the clock is right.
    """
    file = state_dir / f"{_NAME}-{node_id}"  # an id is safe in a file's name
    incarnation = max(int(time.time()), _read(file) + 1)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_text(f"{incarnation}\n")
        unfinished.replace(file)
    except OSError as error:
        _log.warning("%s cannot be written (%s): the clock alone tells runs apart", file, error)
    return Identity(node_id, incarnation, secrets.randbits(_SESSION_BITS), software)


def _read(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
