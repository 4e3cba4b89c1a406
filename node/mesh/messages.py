"""The messages between nodes, and the advert in them.

Messages are msgpack arrays. The first four fields never change, so that a node of any protocol
version can be named. Fields are only added at the end, with a default. The advert's payload is
opaque here; its readers interpret it (`node.routing.offer`).
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.events.node import NodeState
from shared.settings.kinds import NODE_ID

PROTOCOL: Final = 2
MESSAGE_BYTES: Final = 64 * 2**10
"""A longer message closes its connection."""
PAYLOAD_BYTES: Final = 36 * 2**10
"""Limit of an advert's payload. With this and all contacts that are allowed, a message stays within
its limit."""
CONTACTS: Final = 128
"""Limit of the peers that one message may name."""
ADDRESSES: Final = 4
SUSPECTS: Final = 16
NONCE_BYTES: Final = 12
NOT_AUTHENTIC: Final = b"unauthenticated"
"""The answer to a message that was signed with another secret. It is not signed: it is useless to a
stranger, and its receiver only logs it."""

Kind = Literal["survey", "answer", "leave"]

NodeId = Annotated[str, Meta(pattern=rf"^{NODE_ID.pattern}\Z", max_length=64)]
Address = Annotated[str, Meta(min_length=3, max_length=64)]
"""An IP address and a port, such as `10.0.0.7:7946` or `[fd00::7]:7946`."""
Name = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Word64 = Annotated[int, Meta(ge=0)]  # msgpack's own limit is 64 bits
Amount = Annotated[float, Meta(ge=0, le=1e18)]  # this range also excludes NaN


class Advert(msgspec.Struct, frozen=True, array_like=True):
    """What a node says about itself in each message."""

    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES)]
    """The address on which its mesh listens."""
    status: NodeState
    lag_seconds: Amount
    """How late the node's own event loop has been recently: its peers wait longer for it."""
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)] = b""
    """What the node says beyond its membership."""


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """A peer that the sender considers alive, so that the receiver can ask it directly."""

    node_id: NodeId
    incarnation: Count
    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES)]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The fields with which the messages of every protocol version begin."""

    protocol: Count
    node_id: NodeId
    software: Name
    sent_at: Amount


class Message(msgspec.Struct, frozen=True, array_like=True):
    """A survey, an answer to one, or the survey with which a node leaves."""

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
    """Random in each survey. An answer repeats its survey's nonce, so it cannot be older."""
    view: Word64
    """Identifies the set of nodes that the sender considers alive; another set has another value.
    """
    advert: Advert
    contacts: Annotated[tuple[Contact, ...], Meta(max_length=CONTACTS)] = ()
    suspects: Annotated[tuple[NodeId, ...], Meta(max_length=SUSPECTS)] = ()
    """Peers that the sender has not heard for too long. A node that is listed here sends a survey
    at once."""
