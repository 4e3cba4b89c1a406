"""Incoming connections: limited in number, and in what each may send.

Anyone who reaches the port can connect, and nng itself sets no limit. A connection counts as a
stranger's until a message of the mesh has arrived over it. No I/O and no clock.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

STRANGERS: Final = 64
"""Beyond this, the oldest stranger is disconnected: a node identifies itself within a second."""
_BURST: Final = 256.0
_PER_SECOND: Final = 32.0
"""A peer sends at most five surveys a second, whatever happens."""
_REFUSED_COST: Final = 8.0
"""A refused message costs as much as this many good ones. A node with another secret sends one a
second and keeps its connection."""

ConnectionT = TypeVar("ConnectionT")


@dataclass(eq=False)
class Guest(Generic[ConnectionT]):
    """One incoming connection."""

    connection: ConnectionT
    host: str
    """The client's IP address."""
    paid_at: float
    allowance: float = _BURST
    was_refused: bool = False

    def pay(self, now: float, *, is_refused: bool) -> bool:
        """Pay for a message. Return False if the connection has sent too many."""
        earned = (now - self.paid_at) * _PER_SECOND
        self.allowance = min(_BURST, self.allowance + earned)
        self.paid_at = now
        self.allowance -= _REFUSED_COST if is_refused else 1.0
        self.was_refused |= is_refused
        return self.allowance >= 0


class Guests(Generic[ConnectionT]):
    """All incoming connections.

    Args:
        members: Limit of open connections from nodes of this mesh.
    """

    def __init__(self, members: int) -> None:
        self._limit = members
        self._strangers: dict[int, Guest[ConnectionT]] = {}
        self._members: dict[int, Guest[ConnectionT]] = {}
        """In order of silence, the longest silent first."""

    def find(self, number: int) -> Guest[ConnectionT] | None:
        """Return the connection with this number."""
        return self._members.get(number) or self._strangers.get(number)

    def enter(self, number: int, guest: Guest[ConnectionT]) -> Guest[ConnectionT] | None:
        """Add a connection. Return the one to close for it, if any."""
        self._strangers[number] = guest
        return _oldest(self._strangers) if len(self._strangers) > STRANGERS else None

    def believe(self, number: int) -> Guest[ConnectionT] | None:
        """Record that a node of this mesh sent a message. Return the one to close, if any."""
        guest = self._members.pop(number, None) or self._strangers.pop(number, None)
        if guest is not None:
            self._members[number] = guest
        return _oldest(self._members) if len(self._members) > self._limit else None

    def leave(self, number: int) -> None:
        """Forget a closed connection."""
        self._strangers.pop(number, None)
        self._members.pop(number, None)


def _oldest(guests: dict[int, Guest[ConnectionT]]) -> Guest[ConnectionT]:
    return guests.pop(next(iter(guests)))
