"""The parts of an answer, in the order in which they are said."""

import msgspec


class Words(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A piece of what the assistant says."""

    text: str


class Thought(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A piece of what the assistant thinks before it speaks."""

    text: str


class CallBegun(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The assistant calls a function; its arguments follow."""

    number: int
    """The call's place in the answer, from 0."""
    name: str
    identity: str


class CallArguments(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A piece of a call's arguments, which together are JSON."""

    number: int
    text: str


Part = Words | Thought | CallBegun | CallArguments
