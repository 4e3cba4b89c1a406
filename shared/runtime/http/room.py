"""Decides which connections stay open when the limit is reached."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from shared.runtime.http.connection import Connection

RESERVE: Final = 16
"""Connections beyond the limit, on which only probes are answered."""


class Room:
    """The open connections, up to a limit, and a reserve for probes.

    When the limit is reached, a new connection replaces an idle one. If none is idle, the new one
    gets a reserved place: `Connection.is_reserved`.

    Args:
        limit: Connections that may be open at once, without the reserve.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ordinary: set[Connection] = set()
        self._reserve: set[Connection] = set()

    @property
    def connections(self) -> frozenset[Connection]:
        """The open connections."""
        return frozenset(self._ordinary | self._reserve)

    def enter(self, connection: Connection) -> Connection | None:
        """Admit a connection. Return the one that has to close for it, if any.

        That is the new connection itself if even the reserve is busy.
        """
        displaced = None
        if len(self._ordinary) >= self._limit:
            displaced = find_idlest(self._ordinary)
            connection.is_reserved = displaced is None
        if connection.is_reserved and len(self._reserve) >= RESERVE:
            displaced = find_idlest(self._reserve) or connection
        (self._reserve if connection.is_reserved else self._ordinary).add(connection)
        if displaced is not None:
            self.leave(displaced)
        return displaced

    def give_up_idlest(self) -> Connection | None:
        """Remove and return the connection to close if descriptors run out; None if all work."""
        if (idlest := find_idlest(self.connections)) is not None:
            self.leave(idlest)
        return idlest

    def leave(self, connection: Connection) -> None:
        """Forget a connection that has ended or is about to."""
        self._ordinary.discard(connection)
        self._reserve.discard(connection)

    def promote(self, connection: Connection) -> None:
        """Move a connection from the reserve to an ordinary place, if one is free now."""
        if connection in self._reserve and len(self._ordinary) < self._limit:
            connection.is_reserved = False
            self._reserve.remove(connection)
            self._ordinary.add(connection)


def find_idlest(connections: Iterable[Connection]) -> Connection | None:
    """Return the connection to close first; None if all have requests in progress.

    It belongs to the client with the most connections, and has been idle the longest among them: a
    client that opens many loses its own before it costs others theirs.
    """
    every = list(connections)
    by_client = Counter(each.address for each in every)
    return min(
        (each for each in every if not each.requests),
        key=lambda each: (-by_client[each.address], each.idle_since),
        default=None,
    )
