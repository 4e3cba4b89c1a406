"""Who the node is, kept on disk so that its peers recognize it after a restart."""

import logging
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.settings.kinds import NODE_ID

_NAME: Final = "mesh-incarnation"
_ID_NAME: Final = "node-id"
_SESSION_BITS: Final = 63

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """A node in one run of it."""

    node_id: str
    incarnation: int
    session: int
    software: str


def kept_node_id(given: str, state_dir: Path) -> str:
    """Return the node's name: the given one, else the one that it had, else the host's.

    The host's is kept from the first start on, so that a renamed host stays the same node in every
    metric and for every peer.
    """
    if given:
        return given
    file = state_dir / _ID_NAME
    try:
        kept = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        kept = ""
    if NODE_ID.fullmatch(kept):
        return kept
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].strip("-._") or "node"
    _write(file, name, "a renamed host would be another node")
    return name


def next_identity(node_id: str, state_dir: Path, software: str) -> Identity:
    """Return the identity of a new run: its incarnation is higher than that of every run before.

    The incarnation is the wall clock's seconds, or one more than the last one where that is more.
    With the state directory a clock may be set back; with the right clock the directory may be
    lost.
    """
    file = state_dir / f"{_NAME}-{node_id}"  # an id is safe in a file's name
    incarnation = max(int(time.time()), _read(file) + 1)
    _write(file, str(incarnation), "the clock alone tells runs apart")
    return Identity(node_id, incarnation, secrets.randbits(_SESSION_BITS), software)


def _write(file: Path, text: str, otherwise: str) -> None:
    """Write a line whole or not at all; log what it means where that fails."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_text(f"{text}\n")
        unfinished.replace(file)
    except OSError as error:
        _log.warning("%s cannot be written (%s): %s", file, error, otherwise)


def _read(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
