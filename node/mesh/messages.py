"""What nodes say to each other: one form of message for each kind, and a node's advert in it.

Messages are msgpack arrays. The first four fields never change, so that a node of any protocol
version can be named; fields are only ever added at the end with a default. What the advert's
payload means is for its readers (`node.routing.offer`): here it is bytes.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from shared.events import NodeState
from shared.settings.kinds import NODE_ID

PROTOCOL: Final = 2
MESSAGE_BYTES: Final = 64 * 2**10
"""A longer message closes its connection."""
PAYLOAD_BYTES: Final = 32 * 2**10
"""Of an advert. With this and as many contacts as there may be a message is still short enough."""
CONTACTS: Final = 128
"""Peers that one message may name."""
ADDRESSES: Final = 4
SUSPECTS: Final = 16
NONCE_BYTES: Final = 12
NOT_AUTHENTIC: Final = b"unauthenticated"
"""Answers a message that was signed with another secret. Not signed itself: it says nothing that a
stranger could use, and its reader only logs it."""

Kind = Literal["survey", "answer", "leave"]

NodeId = Annotated[str, Meta(pattern=rf"^{NODE_ID.pattern}\Z", max_length=64)]
Address = Annotated[str, Meta(min_length=3, max_length=64)]
"""An IP address and a port, as `10.0.0.7:7946` or `[fd00::7]:7946`."""
Name = Annotated[str, Meta(max_length=64)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Word64 = Annotated[int, Meta(ge=0)]  # msgpack ends at 64 bits by itself
Amount = Annotated[float, Meta(ge=0, le=1e18)]  # NaN is not within a range: it is refused too


class Advert(msgspec.Struct, frozen=True, array_like=True):
    """What a node says of itself in each message."""

    addresses: Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES)]
    """Where its mesh listens."""
    status: NodeState
    lag_seconds: Amount
    """How late the node's own loop has been lately: its peers wait longer for it."""
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES)] = b""
    """What the node has to say beyond its membership."""


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
    """Random in each survey; an answer repeats its survey's, so that it cannot be older."""
    view: Word64
    """Stands for the set of nodes that the sender holds alive: differs where theirs differ."""
    advert: Advert
    contacts: Annotated[tuple[Contact, ...], Meta(max_length=CONTACTS)] = ()
    suspects: Annotated[tuple[NodeId, ...], Meta(max_length=SUSPECTS)] = ()
    """Peers that the sender has not heard for too long. A node that is named here asks at once."""
