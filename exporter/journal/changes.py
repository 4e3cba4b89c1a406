"""What the journal's records mean: each is one change of the state, in order."""

import struct
from typing import Final, NamedTuple

import msgspec

from exporter.ingest.batches import Accepted, Ingest, decode_batch
from exporter.metrics.catalogue.families import FAMILIES
from exporter.metrics.nodes import Labels
from exporter.metrics.state import State

BATCH: Final = 1
"""A node's batch, as received."""
OWN: Final = 2
"""Samples of the exporter's own metrics."""
SILENCE: Final = 3
"""The name of a node that was silent for too long."""

OwnSample = tuple[str, Labels, float]


class Change(NamedTuple):
    """One record, read."""

    kind: int
    received_at: float
    """Unix time."""
    content: bytes


_HEADER: Final = struct.Struct("<Bd")
"""The kind of a record, the Unix time of its reception, and the change."""
_FAMILIES: Final = {family.name: family for family in FAMILIES}
_own_decoder = msgspec.msgpack.Decoder(list[OwnSample])
_encoder = msgspec.msgpack.Encoder()


def pack_change(kind: int, received_at: float, content: bytes) -> bytes:
    """Write a record."""
    return _HEADER.pack(kind, received_at) + content


def unpack_change(record: bytes) -> Change:
    """Read a record.

    Raises:
        struct.error: It is too short for a record.
    """
    kind, received_at = _HEADER.unpack_from(record)
    return Change(kind, received_at, record[_HEADER.size :])


def apply_change(ingest: Ingest, change: Change) -> int:
    """Apply a recorded change again and return how many events it held."""
    kind, received_at, content = change
    if kind == BATCH:
        accepted = decode_batch(content)
        if isinstance(accepted, Accepted):
            ingest.count(accepted, None, received_at)
            return len(accepted.happened)
    elif kind == OWN:
        move_own(ingest.state, _own_decoder.decode(content))
    elif kind == SILENCE:
        ingest.lose(content.decode())
    return 0


def pack_own(own: list[OwnSample]) -> bytes:
    """Write samples of the exporter's own."""
    return _encoder.encode(own)


def move_own(state: State, own: list[OwnSample]) -> None:
    """Count samples of the exporter's own metrics, ignoring unknown families."""
    for name, labels, value in own:
        if name in _FAMILIES:
            state.move(_FAMILIES[name], labels, value)
