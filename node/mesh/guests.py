"""The connections that others opened to this node: bounded in number and in what each may send.

Everybody who reaches the port can connect, and nng itself sets no limit. A connection is a
stranger's until a message of the mesh came over it. No I/O and no clock.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

STRANGERS: Final = 64
"""Past this the oldest stranger makes room: a node shows within a second that it belongs."""
_BURST: Final = 256.0
_PER_SECOND: Final = 32.0
"""A peer surveys at most five times a second, whatever happens."""
_REFUSED_COST: Final = 8.0
"""A refused message costs as much as so many good ones; a node with another secret, which sends
one a second, keeps its connection."""

ConnectionT = TypeVar("ConnectionT")


@dataclass(eq=False)
class Guest(Generic[ConnectionT]):
    """One connection."""

    connection: ConnectionT
    host: str
    """Where it comes from, an IP address."""
    paid_at: float
    allowance: float = _BURST
    was_refused: bool = False

    def pay(self, now: float, *, is_refused: bool) -> bool:
        """Pay for a message; false where the connection has sent too many."""
        earned = (now - self.paid_at) * _PER_SECOND
        self.allowance = min(_BURST, self.allowance + earned)
        self.paid_at = now
        self.allowance -= _REFUSED_COST if is_refused else 1.0
        self.was_refused |= is_refused
        return self.allowance >= 0


class Guests(Generic[ConnectionT]):
    """All of them.

    Args:
        members: Connections of nodes of this mesh that may be open at once.
    """

    def __init__(self, members: int) -> None:
        self._limit = members
        self._strangers: dict[int, Guest[ConnectionT]] = {}
        self._members: dict[int, Guest[ConnectionT]] = {}
        """The one that was silent for longest comes first."""

    def find(self, number: int) -> Guest[ConnectionT] | None:
        """Return the connection with a number."""
        return self._members.get(number) or self._strangers.get(number)

    def enter(self, number: int, guest: Guest[ConnectionT]) -> Guest[ConnectionT] | None:
        """Add a connection; return the one to close for it."""
        self._strangers[number] = guest
        return _oldest(self._strangers) if len(self._strangers) > STRANGERS else None

    def believe(self, number: int) -> Guest[ConnectionT] | None:
        """Note that a node of this mesh spoke; return the connection to close for it."""
        guest = self._members.pop(number, None) or self._strangers.pop(number, None)
        if guest is not None:
            self._members[number] = guest
        return _oldest(self._members) if len(self._members) > self._limit else None

    def leave(self, number: int) -> None:
        """Forget a connection that is closed."""
        self._strangers.pop(number, None)
        self._members.pop(number, None)


def _oldest(guests: dict[int, Guest[ConnectionT]]) -> Guest[ConnectionT]:
    return guests.pop(next(iter(guests)))
