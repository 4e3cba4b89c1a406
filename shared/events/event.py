"""The base of all events, and how they travel.

Events are msgpack arrays that begin with an integer tag. Tags are never reused. Fields are only
added at the end, with a default, so that an older reader skips what it does not know and a newer
reader fills in what an older writer left out.
"""

import msgspec


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all events: an immutable array of plain values that the garbage collector skips."""
