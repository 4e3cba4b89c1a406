"""Keeps on disk who the node is and how often it has started, so that its peers know it again."""

import logging
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import Final

from node.mesh.membership import Identity
from shared.settings.kinds import NODE_ID

_NAME: Final = "mesh-incarnation"
_ID_NAME: Final = "node-id"
_SESSION_BITS: Final = 63

_log = logging.getLogger(__name__)


def kept_node_id(given: str, state_dir: Path) -> str:
    """Give the node's name: the one that was given, else the one that it had, else the host's.

    The host's is kept from the first start on: a host that is renamed, or gets its name from the
    network, is the same node in every metric and to every peer.
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
    """Begin a new run of a node: its incarnation is higher than that of every run before.

    It is the wall clock's seconds, or one more than the last incarnation where that is more: a
    clock that was set back makes no difference while the state directory is there, and a state
    directory that was lost none while the clock is right.
    """
    file = state_dir / f"{_NAME}-{node_id}"  # an id is safe in a file's name
    incarnation = max(int(time.time()), _read(file) + 1)
    _write(file, str(incarnation), "the clock alone tells runs apart")
    return Identity(node_id, incarnation, secrets.randbits(_SESSION_BITS), software)


def _write(file: Path, text: str, otherwise: str) -> None:
    """Write a line whole or not at all; where that cannot be, say what it means."""
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
