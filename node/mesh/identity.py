"""The node's identity, kept on disk so that peers recognize the node after a restart."""

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
    """The identity of one run of a node."""

    node_id: str
    incarnation: int
    session: int
    software: str


def kept_node_id(given: str, state_dir: Path) -> str:
    """Return the node's name: the given one, else the one that it kept, else the host's name.

    The host's name is kept from the first start on, so that a renamed host stays the same node in
    every metric and for every peer.
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
    """Return the identity of a new run; its incarnation is higher than that of every earlier run.

    The incarnation is the Unix time in seconds, or the last incarnation plus one if that is higher.
    With the state directory, the clock may be set back; with a correct clock, the directory may be
    lost.
    """
    file = state_dir / f"{_NAME}-{node_id}"  # an id is a safe file name
    incarnation = max(int(time.time()), _read(file) + 1)
    _write(file, str(incarnation), "only the clock distinguishes its runs")
    return Identity(node_id, incarnation, secrets.randbits(_SESSION_BITS), software)


def _write(file: Path, text: str, otherwise: str) -> None:
    """Write a line atomically; on failure, log the consequence."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.{os.getpid()}")
        unfinished.write_text(f"{text}\n")
        unfinished.replace(file)
    except OSError as error:
        _log.warning("cannot write %s (%s): %s", file, error, otherwise)


def _read(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return 0
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0
