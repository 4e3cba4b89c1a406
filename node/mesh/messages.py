"""What nodes say to each other: one form of message for each kind, and a node's advert in it.

Messages are msgpack arrays. The first four fields never change, so that a node of any protocol
version can be named; fields are only ever added at the end with a default.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.events import NodeState
from shared.settings.kinds import NODE_ID

PROTOCOL: Final = 1
MESSAGE_BYTES: Final = 64 * 2**10
"""A longer message closes its connection."""
CONTACTS: Final = 128
"""Peers that one message may name."""
ADDRESSES: Final = 4
MODELS: Final = 64
SUSPECTS: Final = 16
NONCE_BYTES: Final = 12

Kind = Literal["survey", "answer", "leave"]
ModelState = Literal["unloaded", "loading", "ready", "failed"]

NodeId = Annotated[str, Meta(pattern=rf"^{NODE_ID.pattern}\Z", max_length=64)]
Address = Annotated[str, Meta(min_length=3, max_length=64)]
"""An IP address and a port, as `10.0.0.7:7946` or `[fd00::7]:7946`."""
Name = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=256)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Word64 = Annotated[int, Meta(ge=0)]  # msgpack ends at 64 bits by itself
Amount = Annotated[float, Meta(ge=0, le=1e18)]  # NaN is not within a range: it is refused too


class ModelAdvert(msgspec.Struct, frozen=True, array_like=True):
    """A model that a node has, in memory or as a file that it can load."""

    model_id: Name
    state: ModelState
    layers: Count
    """0 while the node has not read the file's header yet, as with the size."""
    size_bytes: Count
    position_bytes: Count
    """Memory that each position of the context takes."""
    context_length: Count
    queued: Count
    in_flight: Count
    slots_busy: Count
    slots_total: Count
    fingerprint: Name = ""
    """Tells models of one name apart: the same for the same file; empty while it is not known."""


class Advert(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of itself, anew in each message."""

    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES)]
    """Where its mesh listens."""
    api_url: Text
    software: Name
    """Version of this project."""
    engine: Name
    status: NodeState
    cpu_cores: Amount
    memory_bytes: Count
    """What the process may use at the most, models included."""
    max_layers: Count
    bytes_per_second: Amount
    """Weights read per second of decoding, as measured; 0 before the first answer."""
    lag_seconds: Amount
    """How late the node's own loop has been lately: who hears of it is patient."""
    models: Annotated[tuple[ModelAdvert, ...], Meta(max_length=MODELS)]


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """A peer that the sender holds alive, so that the receiver can ask it itself."""

    node_id: NodeId
    incarnation: Count
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES)]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What the messages of every protocol version begin with."""

    protocol: Count
    node_id: NodeId
    software: Name
    sent_at: Amount


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A survey, an answer to one, or the survey by which a node takes its leave."""

    protocol: Count
    node_id: NodeId
    software: Name
    sent_at: Amount
    """Unix time in seconds."""
    kind: Kind
    incarnation: Count
    """Higher at each start of the node."""
    session: Word64
    """Random at each start: two nodes of one name differ here."""
    sequence: Count
    """Higher in each survey of a session."""
    nonce: Annotated[bytes, Meta(max_length=NONCE_BYTES)]
    """Random in each survey; an answer repeats its survey's, which proves that it is no older."""
    view: Word64
    """Stands for the set of nodes that the sender holds alive: differs where theirs differ."""
    advert: Advert
    contacts: Annotated[tuple[Contact, ...], Meta(max_length=CONTACTS)] = ()
    suspects: Annotated[tuple[NodeId, ...], Meta(max_length=SUSPECTS)] = ()
    """Peers that the sender has not heard for too long: whoever finds itself here speaks up."""
